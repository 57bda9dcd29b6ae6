"""The values that a run of the loop starts from, and the shape of the buffers that it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engines.networks import with_derived
from runtime.samplers.recurrence import Batch

FORCED = {"safe": 1.0, "unsafe": -1.0}  # thresholds that decide whatever the probability


@dataclass(frozen=True)
class LoopShape:
    """What the buffers of a loop depend on: runs of one shape share a loop, whatever their samplers, seeds and policies.

    rows      R, UNet calls
    slots     S, of the samplers' state
    noisy     whether a sampler takes noise on the way
    concepts  K; 0 for an unguarded loop
    before    whether the guard runs before the UNet of its step, and can redirect that call; else beside it
    final_check  whether the guard looks at the final latents, too
    branches  C, 2 with classifier-free guidance, else 1
    height, width  of the latents
    time_cond_proj_dim  G, of a UNet that takes an embedding of the guidance scale; else 0
    """

    rows: int
    slots: int
    noisy: bool
    concepts: int
    before: bool
    final_check: bool
    images: int
    branches: int
    height: int
    width: int
    embed_dim: int
    time_cond_proj_dim: int = 0

    @property
    def guarded(self) -> bool:
        return self.concepts > 0

    def sizes(self) -> dict[str, int]:
        """A number for each symbol of `engines.networks` that the loop's networks have."""
        known = {"B": self.images, "C": self.branches, "K": self.concepts, "S": self.slots}
        of_model = {"D": self.embed_dim, "G": self.time_cond_proj_dim}
        return with_derived({**known, **of_model, "H": self.height, "W": self.width})


@dataclass(frozen=True)
class GuardNumbers:
    """The guard's numbers, as its engine takes them: [K][C·B], then [K][B] each. See `saferedir.guard.Guard.forward`.

    `final_threshold` takes the place of the threshold in the final check. `countdown` is that of the first row and of the final
    check: 0, or NEVER for a concept that is off.
    """

    alpha_scale: list[list[float]]
    threshold: list[list[float]]
    final_threshold: list[list[float]]
    replace_steps: list[list[int]]
    countdown: list[list[int]]


@dataclass(frozen=True, eq=False)
class Start:
    """Where B independent runs start from.

    embeds          float32 [C·B, 77, D]
    noise           standard normal, float32 [B, 4, H, W]
    steps           the samplers
    step_noise      standard normal, float32 [R, B, 4, H, W]; None where no sampler takes any
    guidance_scale  one for each image
    numbers         of each concept for each image; None for an unguarded loop
    delayed         for each image of a loop with the guard before the UNet: whether it is redirected from the next call on only
    timestep_cond   embeddings of the guidance scales, float32 [B, G], where the UNet takes them
    """

    embeds: np.ndarray
    noise: np.ndarray
    steps: Batch
    step_noise: np.ndarray | None
    guidance_scale: Sequence[float]
    numbers: GuardNumbers | None
    delayed: Sequence[bool]
    timestep_cond: np.ndarray | None = None
