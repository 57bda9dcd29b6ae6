"""An image's report, from what was asked for and what came of it."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.guidance import guidance_of
from runtime.judge import Outcome
from runtime.preparation import Preparation
from runtime.report import ImageReport


def image_report(prepared: Preparation, image: int, outcome: Outcome, cut: Sequence[str], manifest_digest: str) -> ImageReport:
    """`cut` is of the texts that were encoded: the negative prompts, where there is guidance, then the prompts."""
    request, sampler = prepared.request, prepared.samplers[image]
    images = len(request.prompts)
    ends = {"negative_prompt": cut[image] if len(cut) > images else "", "prompt": cut[image - images]}
    return ImageReport(
        verdict=outcome.verdict,
        prompt=request.prompts[image],
        negative_prompt=request.negative_prompts[image],
        num_images_per_prompt=request.num_images_per_prompt,
        clip_skip=request.clip_skips[image],
        seed=prepared.seeds[image],
        sampler=sampler.name,
        sampler_options=dict(sampler.options),
        num_inference_steps=request.step_counts[image],
        timesteps=sampler.timesteps.tolist(),
        guidance_scale=request.guidance_scales[image],
        guidance=guidance_of(request.guidance_scales[image], bool(prepared.manifest.geometry.time_cond_proj_dim)),
        height=prepared.size[0],
        width=prepared.size[1],
        on_unsafe=None if request.unguarded else request.modes[image],
        on_still_unsafe=None if request.unguarded else request.still_unsafe_modes[image],
        check=None if request.unguarded else prepared.checks[image],
        forced_verdict=None if request.unguarded else request.forced_verdict,
        guards=outcome.guards,
        manifest_digest=manifest_digest,
        defaults=request.defaults(image, [guard.concept for guard in outcome.guards]),
        cut={name: end for name, end in ends.items() if end},
        failure=outcome.failure,
    )
