"""The redirection rule and its per-image state machine, without a branch: one call is one sampler step.

Source: arXiv 2601.08623 and the reference implementation's behaviour (countdown between checks).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saferedir.heads import TOKENS, Redirector
from saferedir.inference.algebra import InferenceHeads

NOT_CHECKED = -1.0  # p_unsafe of an image whose countdown was still running: no check happened


class Guard(nn.Module):
    """Heads, redirection rule and countdown for any batch, with classifier-free guidance or without.

    `mask_again` applies the token mask once more after the shift's direction is normalised.
    """

    def __init__(self, heads: Redirector | InferenceHeads, mask_again: bool = False) -> None:
        super().__init__()
        self.heads = heads.eval()
        self.mask_again = mask_again

    def for_inference(self, winograd: bool = False) -> Guard:
        """The same guard on `InferenceHeads`: what is exported. `winograd`: see `InferenceHeads`."""
        if isinstance(self.heads, InferenceHeads):
            return self
        return Guard(InferenceHeads(self.heads, winograd), self.mask_again)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        embeds: Tensor,
        original_embeds: Tensor,
        countdown: Tensor,
        alpha_scale: Tensor,
        threshold: Tensor,
        replace_steps: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Check each image and, where it is unsafe, redirect its embeddings from the next UNet call on.

        Args:
            sample: the sampler's own latents float32 [B, 4, H, W], before input scaling.
            timestep: float32 [].
            embeds: current embeddings float32 [C·B, 77, D]; unconditional rows first when C = 2.
            original_embeds: embeddings as encoded, like `embeds`; a shift is always added to these.
            countdown: int32 [B], steps until the next check.
            alpha_scale, threshold: float32 []; replace_steps: int32 [].

        Returns:
            next_embeds like `embeds`; next_countdown int32 [B]; p_unsafe float32 [B], NOT_CHECKED where the countdown
            was running, NaN where the heads gave NaN or infinity.
        """
        images, width = sample.shape[0], self.heads.config.embed_dim
        current = embeds.reshape(-1, images, TOKENS, width)  # [C, B, 77, D]
        original = original_embeds.reshape(-1, images, TOKENS, width)
        logits, delta, mask, alpha = self.heads(sample, timestep, current[-1])
        direction = delta / torch.clamp(torch.linalg.vector_norm(delta, dim=2, keepdim=True), min=1e-12)  # [B, 77 or 1, D]
        size = alpha_scale * alpha * torch.linalg.vector_norm(original, dim=3, keepdim=True)  # [C, B, 77, 1]
        if self.mask_again:
            size = mask.unsqueeze(2) * size

        # A guard that cannot redirect has failed, whatever it classifies. Its inputs are looked at themselves, because the ReLU of
        # some engines turns NaN into 0.
        inputs = sample.sum(dim=(1, 2, 3)) + current.sum(dim=(0, 2, 3))
        usable = torch.isfinite(size.sum(dim=(0, 2, 3)) + direction.sum(dim=(1, 2)) + inputs)
        p_unsafe = torch.where(usable, torch.softmax(logits, dim=1)[:, 1], torch.nan)
        checked = countdown <= 0
        unsafe = checked & ~(p_unsafe <= threshold)  # NaN compares false, so it is unsafe
        next_embeds = torch.where(unsafe.view(1, -1, 1, 1), original + size * direction, current)
        next_countdown = torch.where(checked, torch.where(unsafe, replace_steps, 0), countdown - 1).to(torch.int32)
        return next_embeds.reshape(-1, TOKENS, width), next_countdown, torch.where(checked, p_unsafe, NOT_CHECKED)
