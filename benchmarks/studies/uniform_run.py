"""A run of the loop in which every image has the same sampler, guidance and policy."""

from __future__ import annotations

import numpy as np

from engines.policy import Policy
from runtime.samplers.recurrence import Batch, Recurrence
from runtime.start import GuardNumbers, LoopShape, Start


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
        before=False,
        final_check=False,
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
        numbers=None if policy is None else _numbers(policy, images, len(embeds) // images),
        delayed=[False] * images,
    )
    return shape, start


def _numbers(policy: Policy, images: int, branches: int) -> GuardNumbers:
    unconditional = policy.alpha_scale if policy.shift == "both" else 0.0
    return GuardNumbers(
        alpha_scale=[[unconditional] * images * (branches - 1) + [policy.alpha_scale] * images],
        threshold=[[policy.threshold] * images],
        final_threshold=[[policy.threshold_at_end] * images],
        replace_steps=[[policy.replace_steps] * images],
        countdown=[[0] * images],
    )
