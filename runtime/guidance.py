"""Guidance: how each image follows its prompt, and the embedding of its scale for UNets that were distilled with it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

EMBEDDED, CLASSIFIER_FREE, NONE = "embedded", "classifier-free", "none"


def guidance_of(scale: float, embedded: bool) -> str:
    """What a guidance scale does: nothing at 1 or less, unless it is an input of the UNet."""
    return EMBEDDED if embedded else CLASSIFIER_FREE if scale > 1 else NONE


def guidance_embedding(scales: Sequence[float], width: int) -> np.ndarray:
    """Sines, then cosines, of 1000·(scale − 1) at falling frequencies, float32 [len(scales), width ≥ 4]; an odd width ends in 0.

    Equal to diffusers' `StableDiffusionPipeline.get_guidance_scale_embedding` of scale − 1, computed in float32 as there.
    """
    half = width // 2
    step = np.log(np.float32(10_000)) / np.float32(half - 1)
    frequencies = np.exp(np.arange(half, dtype=np.float32) * -step)
    angles = (np.array(scales) - 1).astype(np.float32)[:, None] * np.float32(1000) * frequencies
    embedding = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    return np.pad(embedding, ((0, 0), (0, width % 2)))
