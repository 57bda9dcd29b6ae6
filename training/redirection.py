"""A guard that redirects a run of a model in PyTorch, as the runtime's loop does."""

from __future__ import annotations

import torch
from torch import Tensor

from engines.policy import Policy
from saferedir.guard import Concept, Guard
from saferedir.heads import Redirector


class Redirection:
    """The guard's state in one run: which embeddings each UNet call sees, and under which each check was made."""

    def __init__(self, heads: Redirector, embeds: Tensor, images: int, policy: Policy, delayed: bool) -> None:
        device, rows = embeds.device, len(embeds)
        self._guard = Guard(Concept(heads))
        self._embeds, self._shifts = embeds, torch.zeros_like(embeds).unsqueeze(0)
        self._countdown = torch.zeros(1, images, dtype=torch.int32, device=device)
        scale = torch.full((1, rows), policy.alpha_scale, device=device)
        if policy.shift == "conditional":
            scale[:, : rows - images] = 0
        self._numbers = {
            "alpha_scale": scale,
            "threshold": torch.full((1, images), policy.threshold, device=device),
            "replace_steps": torch.full((1, images), policy.replace_steps, dtype=torch.int32, device=device),
            "delayed": torch.full((images,), delayed, device=device),
        }
        self._images = images

    @property
    def shift(self) -> Tensor:
        """The conditional rows' shift [B, 77, D], under which the next check is made."""
        return self._shifts[0, -self._images :]

    @torch.no_grad()
    def step(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """The embeddings [C·B, 77, D] for this row's UNet call."""
        timesteps = timestep.float().expand(self._images)
        acting, self._shifts, self._countdown, _, _ = self._guard(
            sample, timesteps, self._embeds, self._shifts, self._countdown, **self._numbers
        )
        embeds: Tensor = acting
        return embeds
