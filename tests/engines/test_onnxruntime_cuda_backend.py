"""ONNX Runtime's CUDA backend on a fake CUDA: sessions on the CPU whose arrays lie in the fake device's memory."""

from __future__ import annotations

import gc
import json
import shutil
from functools import partial
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest

from engines.backends import onnxruntime_cuda as onnxruntime_cuda_backend
from engines.backends.registry import open_backend
from engines.cuda import device as cuda_module
from engines.cuda.device import Cuda
from engines.errors import BackendError, InputError
from engines.networks import NETWORKS
from export.precision.emulation import emulate
from runtime import GuardedPipeline
from saferedir.cli import main
from tests.engines.fake_cuda import FakeRuntime

FIRE, PLAIN = "a burning blue square on a grey background", "a small red star"
STEPS = 6


class CapturingSession:
    """Runs on a CPU, but late, on the stream that it was given, as the CUDA provider does."""

    made: list[CapturingSession] = []
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def __init__(self, cuda: FakeRuntime, path, options, providers) -> None:
        ((name, self.settings),) = providers
        assert name == "CUDAExecutionProvider"
        self._cuda, self._session = cuda, onnxruntime.InferenceSession(path, options)
        self.made.append(self)

    def get_providers(self):
        return self.providers

    def get_inputs(self):
        return self._session.get_inputs()

    def get_outputs(self):
        return self._session.get_outputs()

    def io_binding(self):
        binding = SimpleNamespace(inputs={}, outputs={})

        def bind(arrays, name, device, index, dtype, shape, address):
            assert (device, index) == ("cuda", 0) and address % 256 == 0
            arrays[name] = self._cuda.view(address, tuple(shape), np.dtype(dtype).name)

        binding.bind_input, binding.bind_output = partial(bind, binding.inputs), partial(bind, binding.outputs)
        return binding

    def run_with_iobinding(self, binding, options):
        assert options.get_run_config_entry("disable_synchronize_execution_providers") == "1"
        for value in self.get_inputs():
            assert all(isinstance(dim, int) for dim in value.shape), "a symbolic dimension was left"

        def work():
            for name, found in zip(binding.outputs, self._session.run(list(binding.outputs), binding.inputs), strict=True):
                binding.outputs[name][...] = found

        def spans(arrays):
            return [(array.ctypes.data, array.ctypes.data + array.nbytes) for array in arrays.values()]

        self._cuda.submit(int(self.settings["user_compute_stream"]), work, spans(binding.inputs), spans(binding.outputs))


@pytest.fixture
def device(monkeypatch):
    runtime = FakeRuntime()
    fake = SimpleNamespace(
        SessionOptions=onnxruntime.SessionOptions,
        RunOptions=onnxruntime.RunOptions,
        __version__="0.0.fake",
        InferenceSession=lambda path, options, providers: CapturingSession(runtime, path, options, providers),
    )
    monkeypatch.setattr(CapturingSession, "made", [])
    monkeypatch.setattr(cuda_module, "open_cuda", lambda: Cuda(runtime))
    monkeypatch.setattr(onnxruntime_cuda_backend, "import_onnxruntime", lambda: fake)
    return runtime


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    built = tmp_path_factory.mktemp("half") / "demo"
    assert main(["build", "--backend", "onnxruntime-cuda", "--precision", "float16", "--engine-dir", str(built)]) == 0
    return built


@pytest.fixture
def folder(demo_engines, tmp_path):
    copy = shutil.copytree(demo_engines, tmp_path / "demo")
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "backend": "onnxruntime-cuda"}))
    return copy


@pytest.mark.parametrize("eager", [False, True])
def test_pictures_and_decisions_are_those_of_the_cpu(pipeline, folder, device, eager):
    prompts = [FIRE, PLAIN]
    expected = pipeline(prompts, seed=7, num_inference_steps=STEPS)
    with GuardedPipeline(folder, eager=eager) as opened:
        found = opened(prompts, seed=7, num_inference_steps=STEPS)
    for ours, reference in zip(found.images, expected.images, strict=True):
        assert np.abs(np.asarray(ours).astype(int) - np.asarray(reference)).max() <= 1
    assert [report.verdict for report in found.reports] == ["redirected", "safe"]
    assert {session.settings["enable_cuda_graph"] for session in CapturingSession.made} == {"0" if eager else "1"}
    assert {session.settings["use_tf32"] for session in CapturingSession.made} == {"0"}
    assert not found.execution.graph and ("eager" if eager else "for each network") in found.execution.reason


def test_float16_engines_are_files_in_float16(pipeline, demo_engines, half, device, monkeypatch):
    def emulation(path, contents, options):
        return str(path if "decoder" in str(path) else emulate(path, "float16"))

    monkeypatch.setattr(onnxruntime_cuda_backend, "onnx_source", emulation)  # no such arithmetic on a CPU
    size, of_float32 = ((folder / "unet" / "model.onnx").stat().st_size for folder in (half, demo_engines))
    assert size < 0.6 * of_float32
    expected = pipeline([FIRE, PLAIN], seed=7, num_inference_steps=STEPS)
    with GuardedPipeline(half) as opened:
        found = opened([FIRE, PLAIN], seed=7, num_inference_steps=STEPS)
    for ours, reference in zip(found.images, expected.images, strict=True):
        assert np.abs(np.asarray(ours).astype(int) - np.asarray(reference)).mean() <= 1
    assert [report.verdict for report in found.reports] == [report.verdict for report in expected.reports]


def test_a_network_has_one_session_for_each_shape_and_few_in_all(folder, device):
    with GuardedPipeline(folder) as opened:
        used = len(NETWORKS) - 1  # a safe prompt needs no token mask
        for _ in range(2):
            opened(PLAIN, seed=0, num_inference_steps=STEPS)
        assert len(CapturingSession.made) == used
        synchronised = device.calls["cudaStreamSynchronize"]
        opened(PLAIN, seed=0, num_inference_steps=2 * STEPS)
        assert len(CapturingSession.made) == used
        many = device.calls["cudaStreamSynchronize"] - synchronised
        opened(PLAIN, seed=0, num_inference_steps=3 * STEPS)
        assert device.calls["cudaStreamSynchronize"] - synchronised - many == many, "the host waits within the loop"
        for height in (32, 48, 80):
            opened(PLAIN, seed=0, num_inference_steps=1, height=height)
        engine = opened._opened().engines["unet"]
        assert len(engine._sessions) == onnxruntime_cuda_backend.SESSIONS
    del opened, engine
    CapturingSession.made.clear()
    gc.collect()
    assert not +device.live


def test_wrong_arrays_and_files(folder, device, monkeypatch):
    backend = open_backend("onnxruntime-cuda")
    engine = backend.load(folder / "vae_decoder" / "model.onnx", NETWORKS["vae_decoder"])
    with pytest.raises(BackendError, match="expected tensors"):
        engine.bind(latent=backend.zeros((1, 4, 2, 2), "float32"))
    arrays = {"images": backend.zeros((1, 8, 8, 3), "uint8"), "finite": backend.zeros((1,), "bool")}
    with pytest.raises(InputError, match="expected float32"):
        engine.bind(latent=backend.zeros((1, 4, 2, 2), "int32"), **arrays)
    with monkeypatch.context() as changed:
        changed.setattr(CapturingSession, "providers", ["CPUExecutionProvider"])
        with pytest.raises(BackendError, match="expected CUDAExecutionProvider, found CPUExecutionProvider .*libraries"):
            engine.bind(latent=backend.zeros((1, 4, 2, 2), "float32"), **arrays)
    engine = backend.load(folder / "manifest.json", NETWORKS["vae_decoder"])
    with pytest.raises(BackendError, match="ONNX Runtime cannot load it"):
        engine.bind(latent=backend.zeros((1, 4, 2, 2), "float32"), **arrays)


def test_a_build_without_cuda_says_what_to_install():
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(BackendError, match="expected CUDAExecutionProvider, found .*CPUExecutionProvider.*onnxruntime-gpu"):
        onnxruntime_cuda_backend.import_onnxruntime()
