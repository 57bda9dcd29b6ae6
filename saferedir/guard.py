"""The redirection rule and its state machine for every image and concept, without a branch: one call is one sampler step.

Source: arXiv 2601.08623 and the reference implementation's behaviour (countdown between checks). With one concept this is the
reference; with several, each has a shift, a countdown and a policy of its own, and the shifts add up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from engines.networks import NOT_CHECKED, TOKENS
from saferedir.heads import Redirector
from saferedir.inference.algebra import InferenceHeads


class Concept(nn.Module):
    """One concept to forget: its heads and the rule that turns them into a shift.

    `mask_again` applies the token mask once more after the shift's direction is normalised.
    """

    def __init__(self, heads: Redirector | InferenceHeads, mask_again: bool = False) -> None:
        super().__init__()
        self.heads = heads.eval()
        self.mask_again = mask_again

    def for_inference(self, winograd: bool = False) -> Concept:
        """The same concept on `InferenceHeads`: what is exported. `winograd`: see `InferenceHeads`."""
        if isinstance(self.heads, InferenceHeads):
            return self
        return Concept(InferenceHeads(self.heads, winograd), self.mask_again)

    def forward(self, sample: Tensor, timestep: Tensor, embeds: Tensor, size: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
        """Probability of unsafe float32 [B], NaN where anything is NaN or infinity, and the shift [C, B, 77, D].

        `embeds` float32 [B, 77, D] are the conditional embeddings after all shifts; `size` float32 [C, B, 77, 1] is the length
        of a shift of scale 1 for each token; `threshold` float32 [B].
        """
        logits, delta, mask, alpha = self.heads(sample, timestep, embeds)
        direction = delta / torch.clamp(torch.linalg.vector_norm(delta, dim=2, keepdim=True), min=1e-12)  # [B, 77 or 1, D]
        size = size * alpha
        if self.mask_again:
            size = mask.unsqueeze(2) * size

        # Heads that cannot redirect have failed, whatever they classify. Their inputs are checked, too: some engines' ReLU turns
        # NaN into 0.
        inputs = sample.sum(dim=(1, 2, 3)) + timestep + embeds.sum(dim=(1, 2)) + threshold
        finite = torch.abs(size.sum(dim=(0, 2, 3)) + direction.sum(dim=(1, 2)) + inputs) < torch.inf  # NaN compares false
        return torch.where(finite, torch.softmax(logits, dim=1)[:, 1], torch.nan), size * direction


class Guard(nn.Module):
    """K concepts, any batch, with classifier-free guidance or without."""

    def __init__(self, *concepts: Concept) -> None:
        super().__init__()
        self.concepts = nn.ModuleList(concepts)

    def for_inference(self, winograd: bool = False) -> Guard:
        """The same guard on `InferenceHeads`: what is exported. `winograd`: see `InferenceHeads`."""
        return Guard(*(concept.for_inference(winograd) for concept in cast(Iterable[Concept], self.concepts)))

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        original_embeds: Tensor,
        shifts: Tensor,
        countdown: Tensor,
        alpha_scale: Tensor,
        threshold: Tensor,
        replace_steps: Tensor,
        delayed: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Check each image for each concept and, where it is unsafe, redirect its embeddings.

        Args:
            sample: the sampler's own latents float32 [B, 4, H, W], before input scaling.
            timestep: float32 [B].
            original_embeds: embeddings as encoded, float32 [C·B, 77, D]; unconditional rows first when C = 2.
            shifts: float32 [K, C·B, 77, D], zero at first; what the UNet saw is the original plus their sum.
            countdown: int32 [K, B], steps until the next check.
            alpha_scale: float32 [K, C·B], the strength for each row of the embeddings. The reference has one for both rows of an
                image; 0 for the unconditional one redirects the conditional one only.
            threshold: float32 [K, B]; replace_steps: int32 [K, B].
            delayed: bool [B], whether next_embeds are still without what this call decides.

        Returns:
            next_embeds like `original_embeds`; next_shifts; next_countdown int32 [K, B]; p_unsafe float32 [K, B], NOT_CHECKED
            where the countdown was running, NaN where heads, inputs or threshold are NaN or infinity; unsafe bool [K, B].
        """
        concepts, width = len(self.concepts), cast(Concept, self.concepts[0]).heads.config.embed_dim
        rows = (-1, sample.shape[0], TOKENS, width)  # [C, B, 77, D]
        original, known = original_embeds.reshape(rows), shifts.reshape(concepts, *rows)
        current = original + self._total(known, rows)
        norms = torch.linalg.vector_norm(original, dim=3, keepdim=True)  # [C, B, 77, 1]
        scales = alpha_scale.reshape(concepts, -1, sample.shape[0], 1, 1)
        outputs = [
            concept(sample, timestep, current[-1], scales[index] * norms, threshold[index])
            for index, concept in enumerate(self.concepts)
        ]
        p_unsafe, shift = (self._stacked(values) for values in zip(*outputs, strict=True))  # [K, B], [K, C, B, 77, D]
        checked = countdown <= 0
        unsafe = checked & ~(p_unsafe <= threshold)  # NaN compares false, so it is unsafe
        following = torch.where(unsafe.reshape(concepts, 1, -1, 1, 1), shift, known)
        acting = torch.where(delayed.reshape(1, 1, -1, 1, 1), known, following)
        next_countdown = torch.where(checked, torch.where(unsafe, replace_steps, 0), countdown - 1).to(torch.int32)
        return (
            (original + self._total(acting, rows)).reshape(-1, TOKENS, width),
            following.reshape(concepts, -1, TOKENS, width),
            next_countdown,
            torch.where(checked, p_unsafe, NOT_CHECKED),
            unsafe,
        )

    # With one concept, as most guards have, neither a sum nor a stack copies anything.
    def _total(self, shifts: Tensor, rows: tuple[int, ...]) -> Tensor:
        """The sum over concepts of [K, C, B, 77, D]."""
        return shifts.reshape(rows) if len(self.concepts) == 1 else shifts.sum(dim=0)

    def _stacked(self, values: Sequence[Tensor]) -> Tensor:
        """[K, …] of one tensor for each concept."""
        return values[0].unsqueeze(0) if len(self.concepts) == 1 else torch.stack(list(values))


class TokenMask(nn.Module):
    """Conditional embeddings float32 [B, 77, D] → each concept's token mask float32 [K, B, 77], in 0..1."""

    def __init__(self, *concepts: Concept) -> None:
        super().__init__()
        self.predictors = nn.ModuleList(_trained(concept.heads).mask_predictor for concept in concepts)

    def forward(self, embeds: Tensor) -> Tensor:
        return torch.stack([predictor(embeds) for predictor in self.predictors])


def _trained(heads: Redirector | InferenceHeads) -> Redirector:
    return heads.redirector if isinstance(heads, InferenceHeads) else heads
