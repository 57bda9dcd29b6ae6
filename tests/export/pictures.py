"""One prompt drawn by engines and by diffusers, to be compared with `levels`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from runtime import GuardedPipeline, Result

PROMPT, SEED, CALL = "a red star", 3, {"num_inference_steps": 4, "guidance_scale": 5.0}


def drawn(engine_dir: Path, **options: Any) -> Result:
    """What the engines of a folder draw, guarded unless `unguarded` is given."""
    with GuardedPipeline(engine_dir) as pipeline:
        return pipeline(PROMPT, seed=SEED, **CALL, **options)


def drawn_by_diffusers(pipeline: StableDiffusionPipeline) -> Image.Image:
    """The picture of the same prompt and seed."""
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(PROMPT, generator=torch.Generator().manual_seed(SEED), **CALL).images[0]
