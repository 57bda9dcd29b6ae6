"""Whom we compare with: a table of peers, and ourselves among them.

A peer's factory loads it from a target's weights and returns its generator: from `Work` to pictures. Nothing heavy is
imported before a peer is made, which happens in a process of the peer's own (`benchmarks.peers.process`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.suite.target import Target
from engines.policy import Policy
from runtime import GuardedPipeline


@dataclass(frozen=True)
class Work:
    """What one run generates: an image for each prompt, image i from `seed` + i. `threshold` is the guard's, unless its verdicts
    are forced.

    With `comparing` only the pictures count and no time is taken: a peer that changes them may leave out the last change.
    """

    prompts: tuple[str, ...]
    seed: int
    num_inference_steps: int
    height: int
    width: int
    scheduler: str
    guidance_scale: float
    threshold: float
    forced_verdict: str | None = None
    comparing: bool = False

    @property
    def seeds(self) -> list[int]:
        return [self.seed + image for image in range(len(self.prompts))]


Generate = Callable[[Work], Sequence[Any]]  # PIL images


@dataclass(frozen=True)
class Peer:
    """`factory` and `prepare` are "module:function"; both take the target and a scratch folder.

    `prepare` runs before, in a process that ends, so that its time and memory are not the peer's. `redirects` tells that
    triggering prompts should give our guarded pictures, too. `environment` is a key of ENVIRONMENTS, empty for this one.
    """

    factory: str
    description: str
    precision: str
    prepare: str = ""
    redirects: bool = False
    environment: str = ""


# Peers whose packages do not go together with ours have a Python environment of their own: what to install into it.
ENVIRONMENTS = {
    "openvino": "openvino-genai==2026.4.1.0 'optimum-intel[openvino]==2.2.0' diffusers==0.39.0 torch==2.13.0",
    "sdcpp": "stable-diffusion-cpp-python==0.4.7",
}


OWN = OURS, UNGUARDED = "saferedir, guarded", "saferedir, unguarded"
_DIFFUSERS = "benchmarks.peers.diffusers_peers"
_OPENVINO = (
    ("OpenVINO GenAI", "genai_peers", "openvino_genai.Text2ImagePipeline, in C++"),
    ("optimum-intel", "optimum_intel_peers", "OVStableDiffusionPipeline"),
)
_SDCPP_PRECISIONS = (("float32", "float32"), ("float16", "float16"), ("int8", "int8 weights"))
_OPENVINO_PRECISIONS = (("float32", "float32", "export"), ("bfloat16", "bfloat16", "export"), ("int8", "bfloat16", "export_int8"))
PEERS = {
    OURS: Peer("benchmarks.peers.catalog:guarded", "this toolkit, every step checked", "as built", redirects=True),
    UNGUARDED: Peer("benchmarks.peers.catalog:unguarded", "this toolkit without its guard", "as built"),
    "diffusers": Peer(f"{_DIFFUSERS}:eager_float32", "StableDiffusionPipeline, eager PyTorch", "float32"),
    "diffusers, bfloat16": Peer(f"{_DIFFUSERS}:eager_bfloat16", "StableDiffusionPipeline, eager PyTorch", "bfloat16"),
    "diffusers, compiled": Peer(
        f"{_DIFFUSERS}:compiled_float32", "StableDiffusionPipeline, its UNet through torch.compile", "float32"
    ),
    "diffusers, compiled, bfloat16": Peer(
        f"{_DIFFUSERS}:compiled_bfloat16", "StableDiffusionPipeline, its UNet through torch.compile", "bfloat16"
    ),
    "diffusers, eager guard": Peer(
        "benchmarks.peers.eager_guard:eager_guard",
        "the guard as the reference applies it: heads in PyTorch, a decision of the host at every step, one image at a time",
        "float32",
        redirects=True,
    ),
    "diffusers, safety checker": Peer(
        f"{_DIFFUSERS}:safety_checker", "StableDiffusionPipeline with a StableDiffusionSafetyChecker of random weights", "float32"
    ),
    "Safe Latent Diffusion": Peer(
        f"{_DIFFUSERS}:safe_latent_diffusion",
        "StableDiffusionPipelineSafe: a third UNet row for every image; compared before its change of the prediction",
        "float32",
    ),
    "optimum, ONNX Runtime": Peer(
        "benchmarks.peers.optimum_peer:onnxruntime_pipeline",
        "ORTStableDiffusionPipeline",
        "float32",
        prepare="benchmarks.peers.optimum_peer:export",
    ),
    **{
        f"{name}, {precision}": Peer(
            f"benchmarks.peers.{module}:{function}",
            description,
            precision,
            prepare=f"benchmarks.peers.optimum_intel_peers:{export}",
            environment="openvino",
        )
        for name, module, description in _OPENVINO
        for precision, function, export in _OPENVINO_PRECISIONS
    },
    **{
        f"stable-diffusion.cpp, {function}": Peer(
            f"benchmarks.peers.sdcpp_peers:{function}",
            "stable_diffusion_cpp.StableDiffusion, in C++: convolutions in float16, DDIM as Euler's method",
            precision,
            environment="sdcpp",
        )
        for function, precision in _SDCPP_PRECISIONS
    },
}


def resolve(reference: str) -> Callable[..., Any]:
    """The function that "module:function" names."""
    module, name = reference.split(":")
    return getattr(importlib.import_module(module), name)


def guarded(target: Target, scratch: Path) -> Generate:
    """This toolkit with its guard."""
    return _ours(target, unguarded=False)


def unguarded(target: Target, scratch: Path) -> Generate:
    """This toolkit without its guard."""
    return _ours(target, unguarded=True)


def _ours(target: Target, unguarded: bool) -> Generate:
    pipeline = GuardedPipeline(target.engine_dir, unguarded=unguarded)

    def generate(work: Work) -> Sequence[Any]:
        return pipeline(
            work.prompts,
            seed=work.seed,
            num_inference_steps=work.num_inference_steps,
            height=work.height,
            width=work.width,
            scheduler=work.scheduler,
            guidance_scale=work.guidance_scale,
            policy=Policy(threshold=work.threshold),
            check="beside",
            on_still_unsafe="deliver",
            forced_verdict=work.forced_verdict,
        ).images

    return generate
