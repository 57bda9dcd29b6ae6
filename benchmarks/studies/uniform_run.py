"""A run of the loop in which every image has the same sampler, guidance and policy."""

from __future__ import annotations

import numpy as np

from engines.policy import Policy
from runtime.samplers.recurrence import Batch, Recurrence
from runtime.start import LoopShape, Start


def uniform_run(
    embeds: np.ndarray, noise: np.ndarray, sampler: Recurrence, guidance_scale: float, policy: Policy | None
) -> tuple[LoopShape, Start]:
    """Shape and start for embeddings float32 [C·B, 77, D] and noise float32 [B, 4, H, W]; `policy` None for an unguarded loop."""
    images, _, height, width = noise.shape
    shape = LoopShape(
        rows=sampler.rows,
        slots=sampler.slots,
        noisy=False,
        concepts=0 if policy is None else 1,
        images=images,
        branches=len(embeds) // images,
        height=height,
        width=width,
        embed_dim=embeds.shape[2],
    )
    start = Start(
        embeds=embeds,
        noise=noise,
        steps=Batch.of([sampler] * images),
        step_noise=None,
        guidance_scale=[guidance_scale] * images,
        policies=None if policy is None else [[policy] * images],
    )
    return shape, start
