"""The five losses of Eq. 14 (arXiv 2601.08623), by which the heads learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from saferedir.heads import HeadsOutput, Redirector


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


@dataclass(frozen=True)
class Records:
    """Points of recorded trajectories and the pair of prompts that each belongs to.

    `latents` float32 [N, 4, H, W], `timesteps` float32 [N], `unsafe` bool [N], `pair` int64 [N] index into the pairs
    `safe_embeds`, `unsafe_embeds` and `target_shift` float32 [P, 77, D] and `differs` bool [P, 77]. The target shift is
    e_safe − e_unsafe of tokens that correspond to each other; `differs` marks the tokens that only the unsafe prompt has.
    """

    latents: Tensor
    timesteps: Tensor
    unsafe: Tensor
    pair: Tensor
    safe_embeds: Tensor
    unsafe_embeds: Tensor
    target_shift: Tensor
    differs: Tensor

    def __len__(self) -> int:
        return len(self.latents)

    def embeds(self, rows: Tensor) -> Tensor:
        """Prompt embeddings [len(rows), 77, D] under which the rows were sampled."""
        pair = self.pair[rows]
        return torch.where(self.unsafe[rows].view(-1, 1, 1), self.unsafe_embeds[pair], self.safe_embeds[pair])

    def batch(self, rows: Tensor) -> Batch:
        """The rows by themselves."""
        embeds, pair = self.embeds(rows), self.pair[rows]
        return Batch(
            self.latents[rows],
            self.timesteps[rows],
            embeds,
            self.unsafe[rows],
            embeds,
            self.target_shift[pair],
            self.differs[pair],
        )


def shift_of(output: HeadsOutput, embeds: Tensor) -> Tensor:
    """The redirection [B, 77, D] that the rule applies at alpha_scale 1: α · δ/‖δ‖ · ‖e‖."""
    return output.alpha * nn.functional.normalize(output.delta, dim=2) * embeds.norm(dim=2, keepdim=True)


def batch_losses(output: HeadsOutput, batch: Batch) -> dict[str, Tensor]:
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
    with torch.autocast("cpu", enabled=False):
        terms["mask"] = nn.functional.binary_cross_entropy(output.mask.float(), wanted, 1 + 15 * wanted)
    wanted_alpha = (size / original.norm(dim=2)).clamp(max=1)
    error = (some.alpha.squeeze(2) - wanted_alpha).square().sum()
    terms["alpha"] = error / wanted_alpha.square().sum().clamp(min=1e-6)
    return terms


def losses(output: HeadsOutput, records: Records, rows: Tensor) -> dict[str, Tensor]:
    """`batch_losses` on a batch of records."""
    return batch_losses(output, records.batch(rows))


def weighted(terms: dict[str, Tensor], weights: LossWeights) -> Tensor:
    """The sum of Eq. 14."""
    return sum((getattr(weights, name) * term for name, term in terms.items()), start=torch.zeros(()))


@torch.no_grad()
def classifier_figures(model: Redirector, records: Records, rows: Tensor) -> dict[str, float]:
    """Precision, recall and false positive rate of the classifier on the given records."""
    predicted = torch.cat(
        [
            model(records.latents[part], records.timesteps[part], records.embeds(part)).logits.argmax(1).bool()
            for part in rows.split(256)
        ]
    )
    unsafe = records.unsafe[rows]
    hits = float((predicted & unsafe).sum())
    return {
        "precision": hits / max(float(predicted.sum()), 1),
        "recall": hits / max(float(unsafe.sum()), 1),
        "false_positive_rate": float((predicted & ~unsafe).sum()) / max(float((~unsafe).sum()), 1),
    }
