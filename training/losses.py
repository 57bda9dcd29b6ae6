"""Training of the heads: the five losses of Eq. 14 (arXiv 2601.08623) and the loop that minimises them."""

from __future__ import annotations

from dataclasses import dataclass

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


def shift_of(output: HeadsOutput, embeds: Tensor) -> Tensor:
    """The redirection [B, 77, D] that the rule applies at alpha_scale 1: α · δ/‖δ‖ · ‖e‖."""
    return output.alpha * nn.functional.normalize(output.delta, dim=2) * embeds.norm(dim=2, keepdim=True)


def losses(output: HeadsOutput, records: Records, rows: Tensor) -> dict[str, Tensor]:
    """The terms of Eq. 14, unweighted, on a batch of records.

    Shifts are compared on unsafe records, in units of their target's size, so that no term depends on the scale of the
    text encoder; the cosine counts each token by the size of its target.
    """
    unsafe = records.unsafe[rows]
    pair = records.pair[rows][unsafe]
    original, target = records.unsafe_embeds[pair], records.target_shift[pair]
    terms = {"classification": nn.functional.cross_entropy(output.logits, unsafe.long())}
    some = HeadsOutput(*(values[unsafe] for values in output))
    shift, size = shift_of(some, original), target.norm(dim=2)
    weight = size / size.sum().clamp(min=1e-6)
    terms["mse"] = (shift - target).square().sum() / target.square().sum().clamp(min=1e-6)
    terms["cosine"] = (weight * (1 - nn.functional.cosine_similarity(shift, target, dim=2))).sum()
    wanted = torch.where(unsafe.unsqueeze(1), records.differs[records.pair[rows]], False)
    with torch.autocast("cpu", enabled=False):
        terms["mask"] = nn.functional.binary_cross_entropy(output.mask.float(), wanted.float(), 1 + 15 * wanted.float())
    wanted_alpha = (size / original.norm(dim=2)).clamp(max=1)
    terms["alpha"] = (some.alpha.squeeze(2) - wanted_alpha).square().mean() / wanted_alpha.square().mean().clamp(min=1e-6)
    return terms


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
