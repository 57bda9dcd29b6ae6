"""The demo's engines, built once for the whole run from the shipped model, and a fake GPU that can run them as plans."""

from __future__ import annotations

import json
import random
import shutil
import signal
from pathlib import Path

import pytest

from engines.backends import tensorrt_module as tensorrt_library
from engines.backends.contract import Backend
from engines.backends.registry import BACKENDS, open_backend
from engines.backends.tensorrt_family import TensorRTBackend
from engines.cuda import device as cuda_module
from engines.cuda.device import Cuda
from engines.errors import BackendError
from engines.networks import NETWORKS
from export.build import build
from export.build_command import DEMO_MODEL, options
from runtime import GuardedPipeline
from saferedir.cli import parse
from tests.engines.fake_cuda import FakeRuntime
from tests.engines.fake_tensorrt import FakeTensorRT

# A shell that starts tests in the background makes them ignore SIGINT, and all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

TARGET = {
    "library": "tensorrt-rtx 0.0.fake",
    "compute_capabilities": "portable",
}
SIZES = {"batch_size": "1:1:4", "height": "16:64:256", "width": "16:64:256"}


@pytest.fixture(autouse=True)
def drawn_seeds(monkeypatch):
    """Seeds that a test leaves to be drawn are the same in every run: at few steps the guard withholds one picture in thirty."""
    monkeypatch.setattr("runtime.request.secrets.randbelow", random.Random(0).randrange)


@pytest.fixture(scope="session")
def demo_engines(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("plans") / "demo"
    build(options(parse(["build", "--engine-dir", str(folder)])))
    return folder


# Backends that need no GPU; `tests/engines/test_gpu.py` has the others.
# What is int8 stands in the files, and these are float32; `tests/export/test_int8.py` has others.
ENGINES = [
    (name, precision) for name in ("onnxruntime", "openvino") for precision in BACKENDS[name].precisions if precision != "int8"
]


def opened(name: str, precision: str) -> Backend:
    """The backend; the test is skipped where it is not installed or the processor lacks the precision."""
    try:
        return open_backend(name, precision)
    except BackendError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=ENGINES, ids="-".join)
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


@pytest.fixture
def plans(demo_engines, tmp_path):
    """A folder like the demo's whose plans are ONNX files, which the fake TensorRT can run, and which passed on the fake GPU."""
    runtime = FakeRuntime()
    device = TensorRTBackend("tensorrt-rtx", FakeTensorRT(runtime, rtx=True), Cuda(runtime)).device
    folder = shutil.copytree(demo_engines, tmp_path / "demo")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest |= {"backend": "tensorrt-rtx", "target": TARGET, "sizes": SIZES, "compared_on": dict.fromkeys(NETWORKS, device)}
    for network in NETWORKS:
        (folder / network / "model.onnx").rename(folder / network / "model.plan")
        manifest["files"][f"{network}/model.plan"] = manifest["files"].pop(f"{network}/model.onnx")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def device(monkeypatch, tmp_path):
    """Installs a fake GPU and a fake TensorRT; returns a function that sets how they behave."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def install(seed: int = 0, rtx: bool = True, **behaviour) -> FakeRuntime:
        runtime = FakeRuntime(seed=seed)
        monkeypatch.setattr(cuda_module, "open_cuda", lambda: Cuda(runtime))
        monkeypatch.setattr(tensorrt_library, "import_tensorrt", lambda name: FakeTensorRT(runtime, rtx, **behaviour))
        return runtime

    return install
