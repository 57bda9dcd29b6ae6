"""A picture and the report of it, without engines."""

from __future__ import annotations

import numpy as np
from PIL import Image

from engines.policy import Policy
from runtime.png import image_digest
from runtime.report import GuardReport, ImageReport


def drawn(prompt: str = "a burning é", verdict: str = "redirected", seed: int = 0) -> tuple[Image.Image, ImageReport]:
    """A smooth picture of 64×64, which compresses, and its report."""
    rows, columns = np.mgrid[:64, :64]
    pixels = np.stack([rows * 4, columns * 4, (rows + columns + seed) * 2 % 256], axis=2).astype(np.uint8)
    guard = GuardReport("fire", "c" * 64, Policy(), [True], [0.9], [0], [], [], 0.1, True, False)
    report = ImageReport(
        verdict=verdict,
        prompt=prompt,
        negative_prompt="",
        num_images_per_prompt=1,
        clip_skip=0,
        seed=seed,
        sampler="ddim",
        num_inference_steps=1,
        timesteps=[1.0],
        guidance_scale=7.5,
        guidance="classifier-free",
        height=64,
        width=64,
        on_unsafe="redirect",
        on_still_unsafe="withhold",
        check="before",
        forced_verdict=None,
        guards=[guard],
        manifest_digest="a" * 64,
        image_sha256=image_digest(pixels),
    )
    return Image.fromarray(pixels), report
