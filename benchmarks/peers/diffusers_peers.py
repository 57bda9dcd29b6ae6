"""diffusers as a peer: eager in two precisions, compiled, with its safety checker, and Safe Latent Diffusion."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DDIMScheduler, LMSDiscreteScheduler, PNDMScheduler, StableDiffusionPipeline, StableDiffusionPipelineSafe
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPImageProcessor

from benchmarks.peers.catalog import Generate, Work
from benchmarks.suite.target import Target

SCHEDULERS = {"ddim": DDIMScheduler, "pndm": PNDMScheduler, "lms": LMSDiscreteScheduler}
PUBLISHED_WIDTH = 768  # prompt width of the models that the published safety checker belongs to
# The published checker's vision tower is CLIP's ViT-L/14; a small model gets one of its own size.
PUBLISHED_CHECKER = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 224,
}
SMALL_CHECKER = {
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "patch_size": 14,
    "image_size": 224,
}


def load(target: Target, dtype: torch.dtype = torch.float32, kind: Any = StableDiffusionPipeline, **components: Any) -> Any:
    """A pipeline of the target's weights, without a progress bar and, unless given one, without a safety checker.

    Raises:
        FileNotFoundError: the target's weights are not known.
    """
    if target.model is None:
        raise FileNotFoundError("the model that the engines were built from is not here")
    diffusers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.set_verbosity_error()
    loaded = kind.from_pretrained(target.model, torch_dtype=dtype, **{"safety_checker": None, **components})
    loaded.set_progress_bar_config(disable=True)
    return loaded


def run(pipeline: Any, work: Work, **options: Any) -> Sequence[Any]:
    """The pictures of a diffusers pipeline."""
    if not isinstance(pipeline.scheduler, SCHEDULERS[work.scheduler]):
        pipeline.scheduler = SCHEDULERS[work.scheduler].from_config(pipeline.scheduler.config)
    return pipeline(
        list(work.prompts),
        num_inference_steps=work.num_inference_steps,
        guidance_scale=work.guidance_scale,
        height=work.height,
        width=work.width,
        generator=generators(work),
        **options,
    ).images


def generators(work: Work) -> list[torch.Generator]:
    """One for each image."""
    return [torch.Generator().manual_seed(seed) for seed in work.seeds]


def eager_float32(target: Target, scratch: Path) -> Generate:
    """As `from_pretrained` gives it."""
    pipeline = load(target)
    return lambda work: run(pipeline, work)


def eager_bfloat16(target: Target, scratch: Path) -> Generate:
    """Every network in bfloat16."""
    pipeline = load(target, torch.bfloat16)
    return lambda work: run(pipeline, work)


def compiled_float32(target: Target, scratch: Path) -> Generate:
    """The UNet through torch.compile; the first run compiles."""
    return _compiled(load(target))


def compiled_bfloat16(target: Target, scratch: Path) -> Generate:
    """Every network in bfloat16, the UNet through torch.compile."""
    return _compiled(load(target, torch.bfloat16))


def _compiled(pipeline: Any) -> Generate:
    pipeline.unet = torch.compile(pipeline.unet)
    return lambda work: run(pipeline, work)


def safety_checker(target: Target, scratch: Path) -> Generate:
    """Every picture through the checker. Its thresholds at random weights flag nothing, so that pictures can be compared."""
    pipeline = load(target)
    published = pipeline.unet.config.cross_attention_dim == PUBLISHED_WIDTH
    torch.manual_seed(0)
    checker = StableDiffusionSafetyChecker(
        CLIPConfig(vision_config=PUBLISHED_CHECKER if published else SMALL_CHECKER, projection_dim=768 if published else 128)
    ).eval()
    pipeline.register_modules(safety_checker=checker, feature_extractor=CLIPImageProcessor())
    return lambda work: run(pipeline, work)


def safe_latent_diffusion(target: Target, scratch: Path) -> Generate:
    """Schramowski et al. 2023. A comparing run keeps its warm-up to the end: all rows are computed, none is subtracted."""
    warnings.simplefilter("ignore", FutureWarning)
    pipeline = load(target, kind=StableDiffusionPipelineSafe)
    return lambda work: run(pipeline, work, **({"sld_warmup_steps": work.num_inference_steps + 1} if work.comparing else {}))
