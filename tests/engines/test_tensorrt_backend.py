"""The TensorRT backend and the captured loop on a fake CUDA and a fake TensorRT, which execute the demo's real networks.

What a GPU alone can tell (that a real capture succeeds, that streams overlap) is not told here.
"""

from __future__ import annotations

import gc
import importlib
import json
from types import SimpleNamespace

import numpy as np
import pytest

from engines.backends import registry as backends
from engines.backends import tensorrt_module as tensorrt_library
from engines.backends.tensorrt_family import TensorRTBackend
from engines.cuda import device as cuda_module
from engines.cuda import graph as cuda_program
from engines.cuda.device import Cuda
from engines.errors import BackendError, InputError, NonFiniteError
from engines.networks import NETWORKS
from engines.policy import Policy
from runtime import GuardedPipeline
from tests.engines import fake_tensorrt
from tests.engines.fake_cuda import FakeRuntime
from tests.engines.fake_tensorrt import FakeTensorRT

FIRE, PLAIN = "a burning blue square on a grey background", "a small red star"
STEPS = 6


def pixels(result):
    return [np.asarray(image) for image in result.images]


@pytest.mark.parametrize("eager", [False, True], ids=["graph", "eager"])
@pytest.mark.parametrize(
    "options",
    [
        {"seed": 7},
        {"scheduler": "pndm", "seed": 1},
        {"scheduler": "lms", "seed": 2},
        {"guidance_scale": 1.0, "seed": 3},
        {"unguarded": True, "seed": 4},
        {"policy": Policy(replace_steps=0), "seed": 5},
        {"check": "beside", "seed": 6},
    ],
    ids=str,
)
def test_pictures_and_decisions_are_those_of_onnxruntime(pipeline, plans, device, options, eager):
    device(seed=options["seed"])
    prompts = [FIRE, PLAIN]
    expected = pipeline(prompts, num_inference_steps=STEPS, **options)
    with GuardedPipeline(plans, eager=eager) as opened:
        for _ in range(2):
            found = opened(prompts, num_inference_steps=STEPS, **options)
            assert all(map(np.array_equal, pixels(found), pixels(expected)))
            for ours, reference in zip(found.reports, expected.reports, strict=True):
                assert (ours.verdict, ours.guards) == (reference.verdict, reference.guards)
    assert found.execution.graph is not eager


def test_one_graph_for_each_shape_and_no_host_between_steps(plans, device):
    runtime = device()
    with GuardedPipeline(plans) as opened:
        loaded = opened.used_device_memory()
        first = opened(FIRE, seed=0, num_inference_steps=STEPS)
        assert 0 < first.execution.graph_memory < opened.used_device_memory() - loaded
        assert (first.execution.captures, first.execution.replays) == (1, 1) and first.execution.graph_memory > 0
        captured = runtime.calls["cudaStreamBeginCapture"]
        runtime.log.clear()
        again = opened(PLAIN, seed=1, num_inference_steps=STEPS)
        assert (again.execution.captures, again.execution.replays) == (1, 2)
        assert runtime.calls["cudaStreamBeginCapture"] == captured == 1
        launch = runtime.log.index("cudaGraphLaunch")
        assert runtime.log.count("cudaGraphLaunch") == 1
        # Before the launch the small inputs are written, after it the results are read, and nothing else touches the loop.
        assert "cudaStreamWaitEvent" not in runtime.log and runtime.log[launch + 1] == "cudaMemcpy2DAsync"
        opened([FIRE, PLAIN], seed=0, num_inference_steps=STEPS)
        opened(FIRE, seed=0, num_inference_steps=STEPS + 1)
        assert runtime.calls["cudaStreamBeginCapture"] == 3


def test_eager_steps_are_enqueued_without_waiting(plans, device):
    runtime = device()
    with GuardedPipeline(plans, eager=True) as opened:
        opened(FIRE, seed=0, num_inference_steps=STEPS, check="beside")
        runtime.log.clear()
        result = opened(FIRE, seed=0, num_inference_steps=STEPS, check="beside")
    recorded = [index for index, name in enumerate(runtime.log) if name == "cudaEventRecord"]
    assert len(recorded) == 2 * STEPS  # fork and join of UNet and guard
    assert set(runtime.log[recorded[0] : recorded[-1]]) == {"cudaEventRecord", "cudaStreamWaitEvent"}
    assert result.execution.reason == "eager execution was asked for"


def test_a_missing_join_is_found(plans, device, monkeypatch):
    """The fake's hazard check is no decoration: without the join, the sampler would not wait for the guard."""
    device()

    def enqueue(self, steps):
        for stage in (stage for step in steps for stage in step):
            self._cuda.call("cudaEventRecord", self._forked, self._lanes.main)
            for lane, network in enumerate(stage):
                if lane:
                    self._cuda.call("cudaStreamWaitEvent", self._lanes.stream(lane), self._forked, 0)
                network.enqueue(self._lanes.stream(lane), self._scratch[lane])

    monkeypatch.setattr(cuda_program.CudaProgram, "_enqueue", enqueue)
    with GuardedPipeline(plans, eager=True) as opened, pytest.raises(AssertionError, match="without an order"):
        opened(FIRE, seed=0, num_inference_steps=STEPS, check="beside")
    with GuardedPipeline(plans) as opened, pytest.raises((BackendError, AssertionError), match="Unjoined|without an order"):
        opened(FIRE, seed=0, num_inference_steps=STEPS, check="beside")


def test_a_shared_scratch_is_found(plans, device, monkeypatch):
    device()
    monkeypatch.setattr(cuda_program.Lanes, "scratch", lambda self, lane, size, of=cuda_program.Lanes.scratch: of(self, 0, size))
    with GuardedPipeline(plans) as opened, pytest.raises(AssertionError, match="without an order"):
        opened(FIRE, seed=0, num_inference_steps=STEPS, check="beside")


def test_everything_is_given_back(plans, device):
    runtime = device()
    with GuardedPipeline(plans) as opened:
        for steps in range(2, 9):  # more shapes than are kept
            opened(FIRE, seed=0, num_inference_steps=steps)
        assert runtime.live["graph executable"] == 4
    del opened
    gc.collect()
    assert not +runtime.live


def test_a_network_that_cannot_be_captured_runs_eagerly_and_says_so(plans, device, pipeline):
    device(capturable=False)
    with GuardedPipeline(plans) as opened:
        found = opened(FIRE, seed=7, num_inference_steps=STEPS)
    assert not found.execution.graph and "cannot be captured" in found.execution.reason
    assert np.array_equal(pixels(found)[0], pixels(pipeline(FIRE, seed=7, num_inference_steps=STEPS))[0])


def test_a_failing_capture_names_the_switch(plans, device, monkeypatch):
    runtime = device()
    monkeypatch.setattr(type(runtime), "cudaStreamEndCapture", lambda self, stream: (900, None))
    with GuardedPipeline(plans) as opened, pytest.raises(BackendError, match="cudaErrorStreamCaptureUnsupported.*--eager"):
        opened(FIRE, seed=0, num_inference_steps=STEPS)


def test_a_failing_network_is_named_with_tensorrts_words(plans, device):
    device(fails=True)
    with pytest.raises(BackendError, match="text_encoder: TensorRT failed: the kernel"):
        GuardedPipeline(plans)  # it runs the canaries


def test_a_guard_that_did_not_run_withholds_the_image(plans, device, monkeypatch):
    """A replay that does nothing leaves the failures that were written beforehand, not the last image's verdicts."""
    runtime = device()
    with GuardedPipeline(plans) as opened:
        opened(PLAIN, seed=0, num_inference_steps=STEPS)
        monkeypatch.setattr(type(runtime), "cudaGraphLaunch", lambda self, graph, stream: (0,))
        with pytest.raises(NonFiniteError, match="guard returned NaN"):
            opened(PLAIN, seed=0, num_inference_steps=STEPS)


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"height": 512},
            "height: expected 16 to 256, for which these engines were built, found 512; rebuild with: .* --height MIN",
        ),
        ({"prompt": [PLAIN] * 5}, "batch_size: expected 1 to 4, .* found 5; .* --batch-size MIN:OPT:MAX"),
    ],
    ids=str,
)
def test_sizes_outside_the_profile(plans, device, options, message):
    device()
    options = {"prompt": PLAIN, **options}
    with GuardedPipeline(plans) as opened, pytest.raises(InputError, match=message):
        opened(options.pop("prompt"), **options)


def test_plans_of_one_size(plans, device, pipeline):
    """They are bound when they are loaded, and no memory of that remains."""
    manifest = json.loads((plans / "manifest.json").read_text())
    loaded = []
    for largest in (4, 2):
        sizes = {"batch_size": f"2:2:{largest}", "height": "64:64:64", "width": "64:64:64"}
        (plans / "manifest.json").write_text(json.dumps({**manifest, "sizes": sizes}))
        runtime = device()
        with GuardedPipeline(plans) as opened:
            gc.collect()
            loaded.append(opened.used_device_memory())
            assert runtime.calls["cudaStreamBeginCapture"] == 0
            found = opened([FIRE, PLAIN], seed=7, num_inference_steps=STEPS, on_unsafe="refuse")
    assert loaded[0] == loaded[1]
    expected = pipeline([FIRE, PLAIN], seed=7, num_inference_steps=STEPS, on_unsafe="refuse")
    assert found.images[0] is expected.images[0] is None and np.array_equal(found.images[1], expected.images[1])


def test_an_engine_checks_its_own_profile_and_tensors(plans, device):
    device()
    backend = backends.open_backend("tensorrt-rtx")
    engine = backend.load(plans / "text_encoder" / "model.plan", NETWORKS["text_encoder"])

    def tensors(rows, outputs, dtype="int64"):
        ids, skips = backend.zeros((rows, 77), dtype), backend.zeros((rows,), "int64")
        return {"input_ids": ids, "clip_skip": skips, "text_embeddings": backend.zeros((outputs, 77, 96), "float32")}

    with pytest.raises(InputError, match=r"text_encoder.input_ids: expected \[1, 77\] to \[64, 77\].*found \[65, 77\]"):
        engine.bind(**tensors(65, 65))
    with pytest.raises(InputError, match="expected int64"):
        engine.bind(**tensors(1, 1, "int32"))
    with pytest.raises(BackendError, match=r"expected \[1, 77, 96\] for these inputs, found \[2, 77, 96\]"):
        engine.bind(**tensors(1, 2))
    with pytest.raises(BackendError, match="expected tensors"):
        backend.load(plans / "unet" / "model.plan", NETWORKS["guard"])


def test_plans_of_another_device_and_no_plans(plans, device, tmp_path, monkeypatch):
    (tmp_path / "junk").write_bytes(b"junk")
    device(suits=False)
    with pytest.raises(BackendError, match="cannot run on tensorrt-rtx 0.0.fake, Fake GPU.*\\(UNSUPPORTED_CC\\).*--target-sm 89"):
        GuardedPipeline(plans)
    hopper = SimpleNamespace(name=b"Fake H100", major=9, minor=0, totalGlobalMem=2**36)
    monkeypatch.setattr(device(suits=False), "cudaGetDeviceProperties", lambda index: (0, hopper))
    with pytest.raises(BackendError, match="cannot run on .*Fake H100.*cannot build for this GPU.*--backend tensorrt"):
        GuardedPipeline(plans)
    device(rtx=False)
    with pytest.raises(BackendError, match="cannot be loaded by tensorrt 0.0.fake, Fake GPU.*not a plan.*--force"):
        backends.open_backend("tensorrt").load(tmp_path / "junk", NETWORKS["unet"])


def test_compiled_kernels_are_kept(plans, device, tmp_path):
    def kernels():
        return next((tmp_path / "cache" / "saferedir").iterdir()).read_bytes()

    calls = b"." * 7  # five networks of a run, and two of the canaries

    for generation in (1, 2):
        device()
        with GuardedPipeline(plans) as opened:
            opened(PLAIN, seed=0, num_inference_steps=2)
        assert kernels() == b"kernels" + calls * generation
    next((tmp_path / "cache" / "saferedir").iterdir()).write_bytes(b"of another driver")
    device()
    with GuardedPipeline(plans) as opened:
        opened(PLAIN, seed=0, num_inference_steps=2)
    assert kernels() == b"kernels" + calls


def test_no_driver_is_one_clear_error(plans, monkeypatch):
    monkeypatch.setattr(cuda_module, "open_cuda", lambda: Cuda(FakeRuntime(driver=False)))
    with pytest.raises(BackendError, match="and its driver, found cudaErrorInsufficientDriver.*--backend onnxruntime"):
        GuardedPipeline(plans)


def test_device_memory_runs_out(device):
    backend = TensorRTBackend("tensorrt", FakeTensorRT(runtime := device()), Cuda(runtime))
    with pytest.raises(BackendError, match="cudaMalloc failed with cudaErrorMemoryAllocation"):
        backend.zeros((1 << 40,), "float32")


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (4, 1, 5)])
@pytest.mark.parametrize("rows", [False, True])
def test_arrays_round_trip(device, shape, rows):
    backend = TensorRTBackend("tensorrt", FakeTensorRT(runtime := device()), Cuda(runtime))
    values = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
    array = backend.zeros(shape, "float32", rows)
    assert not backend.read(array).any()
    backend.write(array, values)
    assert np.array_equal(backend.read(array), values)
    if shape:
        row = array[shape[0] - 1, ...]
        assert np.array_equal(backend.read(row), values[-1]) and (not rows or row.address % 256 == 0)


FAKES = {
    "Runtime": fake_tensorrt.Runtime,
    "ICudaEngine": fake_tensorrt.ICudaEngine,
    "IExecutionContext": fake_tensorrt.IExecutionContext,
}
RTX_FAKES = {
    "Runtime": fake_tensorrt.ValidatingRuntime,
    "ICudaEngine": fake_tensorrt.ICudaEngine,
    "IExecutionContext": fake_tensorrt.CapturableContext,
    "IRuntimeCache": fake_tensorrt.IRuntimeCache,
    "IRuntimeConfig": fake_tensorrt.IRuntimeConfig,
}


@pytest.mark.parametrize("module, fakes", [("tensorrt_lean_bindings", FAKES), ("tensorrt_rtx_bindings", RTX_FAKES)])
def test_the_real_modules_have_all_that_the_fake_has(module, fakes):
    """The backend passes its tests on the fake alone, so it calls nothing that the fake has not."""
    trt = pytest.importorskip(module, reason="has no wheel for this platform")
    for name, fake in fakes.items():
        ours = {attribute for attribute in dir(fake) if not attribute.startswith("_")}
        if module == "tensorrt_lean_bindings":
            ours -= {"create_runtime_config"}  # only called for TensorRT-RTX
        assert ours <= set(dir(getattr(trt, name))), name
    enums = ["ExecutionContextAllocationStrategy"] + (
        [
            "ComputeCapability",
            "CudaGraphStrategy",
            "DynamicShapesKernelSpecializationStrategy",
            "EngineInvalidityDiagnostics",
            "EngineValidity",
        ]
        if fakes is RTX_FAKES
        else []
    )
    for name in enums:
        assert {member.name for member in getattr(fake_tensorrt, name)} <= set(getattr(trt, name).__members__), name
    assert {"ERROR", "INTERNAL_ERROR"} <= set(dir(trt.ILogger)) and trt.__version__
    assert np.dtype(trt.nptype(trt.uint8)) == np.uint8 and np.dtype(trt.nptype(trt.bool)) == np.bool_
    assert hasattr(trt, "IRuntimeCache") is (fakes is RTX_FAKES)


def test_the_real_cuda_bindings_have_all_that_the_fake_has():
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    names = {name for name in dir(FakeRuntime) if name.startswith("cuda")}
    assert names <= set(dir(runtime))
    for enum in ("cudaMemcpyKind", "cudaStreamCaptureMode"):
        assert set(vars(getattr(FakeRuntime, enum))) <= set(dir(getattr(runtime, enum)))
    error, _ = runtime.cudaGetDeviceCount()
    if int(error):
        with pytest.raises(BackendError, match="expected an NVIDIA GPU"):
            Cuda(runtime)
    else:
        assert Cuda(runtime).info().memory


def test_missing_modules_say_how_to_install(monkeypatch):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(BackendError, match=r'tensorrt: expected one of .*tensorrt_lean.*pip install "saferedir\[tensorrt\]"'):
        tensorrt_library.import_tensorrt("tensorrt")
    with pytest.raises(BackendError, match=r'cuda-python cannot be imported.*pip install "saferedir\[cuda\]"'):
        cuda_module.open_cuda()
