"""The demo's engines, built once for the whole run from the shipped model."""
from __future__ import annotations

from pathlib import Path

import pytest

from export.build import build
from export.build_engines import DEMO_MODEL, options, parser
from runtime import GuardedPipeline


@pytest.fixture(scope="session")
def demo_engines(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("plans") / "demo"
    build(options(parser().parse_args(["--engine-dir", str(folder)])))
    return folder


@pytest.fixture(scope="session")
def pipeline(demo_engines):
    with GuardedPipeline(demo_engines) as opened:
        yield opened


@pytest.fixture(scope="session")
def diffusers_pipeline():
    import torch
    from diffusers import StableDiffusionPipeline
    loaded = StableDiffusionPipeline.from_pretrained(DEMO_MODEL, torch_dtype=torch.float32, safety_checker=None)
    loaded.set_progress_bar_config(disable=True)
    return loaded
