"""OpenVINO GenAI as a peer: its pipeline in C++, on the files of `benchmarks.peers.optimum_intel_peers`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.peers.catalog import Generate, Work
from benchmarks.suite.target import Target

SCHEDULERS = {"ddim": "DDIM", "pndm": "PNDM", "lms": "LMS_DISCRETE"}


def float32(target: Target, scratch: Path) -> Generate:
    """Computes in float32."""
    return _pipeline(scratch, "f32")


def bfloat16(target: Target, scratch: Path) -> Generate:
    """Computes in bfloat16 what is not int8 in the files."""
    return _pipeline(scratch, "bf16")


def _pipeline(folder: Path, precision: str) -> Generate:
    """Compiled for the shape of its first work, as its documentation advises; another shape compiles again.

    One image a call, for a batch of different prompts is not among its calls.
    """
    import openvino_genai as genai

    @lru_cache(maxsize=1)
    def compiled(height: int, width: int, guidance_scale: float, scheduler: str) -> Any:
        pipeline = genai.Text2ImagePipeline(folder)
        pipeline.reshape(1, height, width, guidance_scale)
        kind = getattr(genai.Scheduler.Type, SCHEDULERS[scheduler])
        pipeline.set_scheduler(genai.Scheduler.from_config(folder / "scheduler" / "scheduler_config.json", kind))
        pipeline.compile("CPU", INFERENCE_PRECISION_HINT=precision)
        return pipeline

    def generate(work: Work) -> Sequence[Any]:
        pipeline = compiled(work.height, work.width, work.guidance_scale, work.scheduler)
        options = {
            "height": work.height,
            "width": work.width,
            "num_inference_steps": work.num_inference_steps,
            "guidance_scale": work.guidance_scale,
        }
        return [
            Image.fromarray(pipeline.generate(prompt, generator=genai.TorchGenerator(seed), **options).data[0])
            for prompt, seed in zip(work.prompts, work.seeds, strict=True)
        ]

    return generate
