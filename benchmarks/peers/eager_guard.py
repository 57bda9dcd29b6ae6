"""The guard as the reference implementation applies it, in eager PyTorch: one image at a time, and at every step the host
reads the classifier's answer before it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers.catalog import Generate, Work
from benchmarks.peers.diffusers_peers import SCHEDULERS, generators, load
from benchmarks.suite.target import Target
from engines.policy import Policy
from saferedir.checkpoint import load_redirector
from saferedir.heads import HeadsOutput, Redirector


def eager_guard(target: Target, scratch: Path) -> Generate:
    """diffusers' networks in a loop with the heads.

    Raises:
        FileNotFoundError: the guard's checkpoint is not known.
    """
    if target.redirector is None:
        raise FileNotFoundError("the checkpoint that the guard was built from is not known; pass --redirector")
    pipeline, redirector = load(target), load_redirector(target.redirector)

    @torch.no_grad()
    def generate(work: Work) -> Sequence[Any]:
        if not isinstance(pipeline.scheduler, SCHEDULERS[work.scheduler]):
            pipeline.scheduler = SCHEDULERS[work.scheduler].from_config(pipeline.scheduler.config)
        return [
            _one(pipeline, redirector, work, prompt, generator)
            for prompt, generator in zip(work.prompts, generators(work), strict=True)
        ]

    return generate


def _one(pipeline: Any, redirector: Redirector, work: Work, prompt: str, generator: torch.Generator) -> Any:
    """One picture."""
    policy, countdown = Policy(threshold=work.threshold), 0
    threshold = {None: work.threshold, "safe": 1.0, "unsafe": -1.0}[work.forced_verdict]
    conditional, unconditional = pipeline.encode_prompt(prompt, "cpu", 1, True)
    embeds = original = torch.cat([unconditional, conditional])
    pipeline.scheduler.set_timesteps(work.num_inference_steps)
    latents = pipeline.prepare_latents(1, 4, work.height, work.width, torch.float32, "cpu", generator)
    for timestep in pipeline.scheduler.timesteps:
        scaled = pipeline.scheduler.scale_model_input(torch.cat([latents] * 2), timestep)
        free, guided = pipeline.unet(scaled, timestep, embeds, return_dict=False)[0].chunk(2)
        if countdown > 0:
            countdown -= 1
        else:
            heads = redirector(latents, timestep.float(), embeds[1:])
            if torch.softmax(heads.logits, dim=1)[0, 1].item() > threshold:
                embeds, countdown = original + _shift(heads, original, policy), policy.replace_steps
        noise_pred = free + work.guidance_scale * (guided - free)
        latents = pipeline.scheduler.step(noise_pred, timestep, latents, return_dict=False)[0]
    decoded = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor, return_dict=False)[0]
    return pipeline.image_processor.postprocess(decoded)[0]


def _shift(heads: HeadsOutput, original: Tensor, policy: Policy) -> Tensor:
    """alpha_scale · α · δ/‖δ‖ · ‖e_orig‖ for each token, [2, 77, D]."""
    direction = heads.delta / heads.delta.norm(dim=2, keepdim=True).clamp(min=1e-12)
    return policy.alpha_scale * heads.alpha * direction * original.norm(dim=2, keepdim=True)
