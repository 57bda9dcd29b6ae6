"""stable-diffusion.cpp as a peer: ggml's kernels on the model's own diffusers folder.

Its pictures cannot be equal to ours. Kernels and inputs of its convolutions are float16 in every precision. Its start is the
noise times σ where DDIM's is the noise times √(σ² + 1), which few steps from a small σ show. It reads prompts with CLIP's own
vocabulary, which the demo's tokenizer is not, nor that of the model with random weights. It knows the published models'
dimensions only, so it cannot run the demo.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.catalog import Generate, Work
from benchmarks.suite.target import Target
from engines.manifest import Manifest
from runtime.samplers.ddim import DDIM_OPTIONS
from runtime.samplers.schedules import SchedulerConfig
from runtime.samplers.timesteps import spaced


def float32(target: Target, scratch: Path) -> Generate:
    """Weights of linear layers in float32."""
    return _pipeline(target, "f32")


def float16(target: Target, scratch: Path) -> Generate:
    """All weights in float16."""
    return _pipeline(target, "f16")


def int8(target: Target, scratch: Path) -> Generate:
    """Weights of linear layers in blocks of 32 with 8 bits and a scale (ggml's q8_0)."""
    return _pipeline(target, "q8_0")


def noise_levels(scheduler: dict[str, Any], steps: int) -> np.ndarray:
    """σ = √((1 − ᾱ)/ᾱ) where DDIM's steps start, and where the last one leads to: float64 [steps + 1].

    In x/√ᾱ DDIM without fresh noise is Euler's method on them (Song et al. 2021, Eq. 14).
    """
    schedule = SchedulerConfig.read(scheduler).schedule(DDIM_OPTIONS)
    timesteps = spaced(steps, schedule)
    end = schedule.alphas_before(timesteps[-1:] - schedule.num_train_timesteps // steps)
    alphas = np.append(schedule.alphas_cumprod[timesteps], end)
    return np.asarray(np.sqrt((1 - alphas) / alphas))


def _pipeline(target: Target, weights: str) -> Generate:
    """One image a call, on every core: the package's default is half of them.

    Raises:
        FileNotFoundError: the target's weights are not known.
        ValueError: from a call with another scheduler than DDIM.
    """
    from stable_diffusion_cpp import StableDiffusion

    if target.model is None:
        raise FileNotFoundError("the model that the engines were built from is not here")
    pipeline = StableDiffusion(
        model_path=str(target.model),
        wtype=weights,
        rng_type="cpu",  # torch's numbers
        vae_decode_only=True,
        n_threads=len(os.sched_getaffinity(0)),
        verbose=False,
    )
    scheduler = Manifest.read(target.engine_dir)[0].scheduler

    def generate(work: Work) -> Sequence[Any]:
        if work.scheduler != "ddim":
            raise ValueError(f"scheduler: expected ddim, as Euler's method on DDIM's noise levels, found {work.scheduler}")
        levels = noise_levels(scheduler, work.num_inference_steps)
        return [
            pipeline.generate_image(
                prompt,
                width=work.width,
                height=work.height,
                cfg_scale=work.guidance_scale,
                sample_method="euler",
                sample_steps=work.num_inference_steps,
                sigmas=",".join(map(repr, levels.tolist())),
                seed=seed,
            )[0].convert("RGB")  # without the alpha channel, which is 255
            for prompt, seed in zip(work.prompts, work.seeds, strict=True)
        ]

    return generate
