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


DIFFERING = 0.4  # how much the tokens that differ count in the direction of a common shift; all tokens count the rest


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


def common_shift(target: Tensor, original: Tensor, differs: Tensor) -> Tensor:
    """What heads can reach of target shifts [N, 77, D]: δ has one direction for all tokens of a prompt, only α is each one's own.

    The direction mixes that of the tokens that differ, bool [N, 77], with that of all tokens, in units of the embeddings' own
    length. Most tokens are padding, which tells of a prompt as a whole, and so of an attribute; the shape of an object is
    told by its noun. Each token keeps what its target has of the direction.
    """
    relative = target / original.norm(dim=2, keepdim=True).clamp(min=1e-6)
    of_all, of_differing = relative.sum(dim=1), (relative * differs.unsqueeze(2)).sum(dim=1)
    normalize = nn.functional.normalize
    direction = normalize(DIFFERING * normalize(of_differing) + (1 - DIFFERING) * normalize(of_all)).unsqueeze(1)
    return (target * direction).sum(dim=2, keepdim=True).clamp(min=0) * direction


def losses(output: HeadsOutput, batch: Batch) -> dict[str, Tensor]:
    """The terms of Eq. 14, unweighted.

    Shifts are compared on unsafe points with what heads can reach of their targets (`common_shift`), in units of its size, so that
    no term depends on the scale of the text encoder; the cosine counts each token by the size of what it can reach.
    """
    unsafe = batch.unsafe
    original = batch.original[unsafe]
    target = common_shift(batch.target_shift[unsafe], original, batch.differs[unsafe])
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
