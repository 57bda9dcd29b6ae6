"""The redirection rule and its per-image state machine, without a branch: one call is one sampler step.

Source: arXiv 2601.08623 and the reference implementation's behaviour (countdown between checks).
"""
from __future__ import annotations

import torch
from torch import Tensor, nn

from saferedir.heads import Redirector

NOT_CHECKED = -1.0  # p_unsafe of an image whose countdown was still running: no check happened


class Guard(nn.Module):
    """Heads, redirection rule and countdown for any batch, with classifier-free guidance or without.

    `mask_again` applies the token mask once more after the shift's direction is normalised.
    """

    def __init__(self, redirector: Redirector, mask_again: bool = False) -> None:
        super().__init__()
        self.redirector = redirector.eval()
        self.mask_again = mask_again

    def forward(self, sample: Tensor, timestep: Tensor, embeds: Tensor, original_embeds: Tensor, countdown: Tensor,
                alpha_scale: Tensor, threshold: Tensor, replace_steps: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
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
            was running, NaN where the heads gave NaN or infinity; token_mask float32 [B, 77].
        """
        images, (tokens, width) = sample.shape[0], embeds.shape[1:]
        current = embeds.reshape(-1, images, tokens, width)  # [C, B, 77, D]
        original = original_embeds.reshape(-1, images, tokens, width)
        heads = self.redirector(sample, timestep, current[-1])
        direction = heads.delta / torch.clamp(torch.linalg.vector_norm(heads.delta, dim=2, keepdim=True), min=1e-12)
        shift = alpha_scale * heads.alpha * direction * torch.linalg.vector_norm(original, dim=3, keepdim=True)
        if self.mask_again:
            shift = heads.mask.unsqueeze(2) * shift

        # A guard that cannot redirect has failed, whatever it classifies. The latents are looked at themselves, because the ReLU
        # of some engines turns NaN into 0.
        usable = torch.isfinite(shift.sum(dim=(0, 2, 3)) + sample.sum(dim=(1, 2, 3)))
        p_unsafe = torch.where(usable, torch.softmax(heads.logits, dim=1)[:, 1], torch.nan)
        checked = countdown <= 0
        unsafe = checked & ~(p_unsafe <= threshold)  # NaN compares false, so it is unsafe
        next_embeds = torch.where(unsafe.view(1, -1, 1, 1), original + shift, current).reshape(embeds.shape)
        next_countdown = torch.where(checked, torch.where(unsafe, replace_steps, 0), countdown - 1).to(torch.int32)
        return next_embeds, next_countdown, torch.where(checked, p_unsafe, NOT_CHECKED), heads.mask
