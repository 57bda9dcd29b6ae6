"""The five losses of Eq. 14 (arXiv 2601.08623), by which the heads learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from saferedir.heads import HeadsOutput


@dataclass(frozen=True)
class LossWeights:
    """λ of Eq. 14. The paper does not publish its values; with these, each term starts between 0.3 and 1."""

    classification: float = 1.0
    mse: float = 1.0
    cosine: float = 1.0
    mask: float = 0.5
    alpha: float = 1.0


class Batch(NamedTuple):
    """Points of trajectories, one a row; on one device.

    latents       float32 [B, 4, H, W]
    timesteps     float32 [B]
    embeds        float32 [B, 77, D]  under which the point was sampled: as encoded, or redirected already
    unsafe        bool [B]            the label
    original      float32 [B, 77, D]  the embeddings as encoded, by whose norms the rule scales its shift
    target_shift  float32 [B, 77, D]  e_safe − e_unsafe of corresponding tokens
    differs       bool [B, 77]        the tokens that only the unsafe prompt has
    """

    latents: Tensor
    timesteps: Tensor
    embeds: Tensor
    unsafe: Tensor
    original: Tensor
    target_shift: Tensor
    differs: Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(*(values.to(device) for values in self))


def shift_of(output: HeadsOutput, embeds: Tensor) -> Tensor:
    """The redirection [B, 77, D] that the rule applies at alpha_scale 1: α · δ/‖δ‖ · ‖e‖."""
    return output.alpha * nn.functional.normalize(output.delta, dim=2) * embeds.norm(dim=2, keepdim=True)


def losses(output: HeadsOutput, batch: Batch) -> dict[str, Tensor]:
    """The terms of Eq. 14, unweighted.

    Shifts are compared on unsafe points, in units of their target's size, so that no term depends on the scale of the text
    encoder; the cosine counts each token by the size of its target.
    """
    unsafe = batch.unsafe
    original, target = batch.original[unsafe], batch.target_shift[unsafe]
    terms = {"classification": nn.functional.cross_entropy(output.logits, unsafe.long())}
    some = HeadsOutput(*(values[unsafe] for values in output))
    shift, size = shift_of(some, original), target.norm(dim=2)
    weight = size / size.sum().clamp(min=1e-6)
    terms["mse"] = (shift - target).square().sum() / target.square().sum().clamp(min=1e-6)
    terms["cosine"] = (weight * (1 - nn.functional.cosine_similarity(shift, target, dim=2))).sum()
    wanted = (batch.differs & unsafe.unsqueeze(1)).float()
    terms["mask"] = nn.functional.binary_cross_entropy(output.mask, wanted, 1 + 15 * wanted)
    wanted_alpha = (size / original.norm(dim=2)).clamp(max=1)
    error = (some.alpha.squeeze(2) - wanted_alpha).square().sum()
    terms["alpha"] = error / wanted_alpha.square().sum().clamp(min=1e-6)
    return terms


def weighted(terms: dict[str, Tensor], weights: LossWeights) -> Tensor:
    """The sum of Eq. 14."""
    return sum((getattr(weights, name) * term for name, term in terms.items()), start=torch.zeros(()))
