"""The demo's engines, built once for the whole run from the shipped model."""
from __future__ import annotations

from pathlib import Path

import pytest

from engines.backend import BACKENDS, PRECISIONS, Backend, open_backend
from engines.errors import BackendError
from export.build import build
from export.build_engines import DEMO_MODEL, options, parser
from runtime import GuardedPipeline


@pytest.fixture(scope="session")
def demo_engines(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("plans") / "demo"
    build(options(parser().parse_args(["--engine-dir", str(folder)])))
    return folder


ENGINES = [(name, precision) for name in BACKENDS for precision in PRECISIONS[name]]


def opened(name: str, precision: str) -> Backend:
    """The backend; the test is skipped where it is not installed or the processor lacks the precision."""
    try:
        return open_backend(name, precision)
    except BackendError as error:
        pytest.skip(str(error))


@pytest.fixture(params=ENGINES, ids="-".join)
def backend(request) -> Backend:
    """Each backend of this machine, in each precision."""
    return opened(*request.param)


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
