"""Real TensorRT-RTX builds of all networks (no GPU needed), and what its errors look like."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import onnx
import pytest

from engines.backends.tensorrt_module import BUILDERS, import_tensorrt
from engines.cuda.device import open_cuda
from engines.errors import BackendError
from engines.manifest import Manifest
from engines.networks import NETWORKS, SLOTS
from engines.sizes import Sizes, Span
from export.build_command import DEMO_MODEL
from export.tensorrt.plan_builder import PlanError, PlanJob, PlanOptions, build_plan
from export.tensorrt.shape_profile import Profile
from runtime import GuardedPipeline
from runtime.samplers.registry import SAMPLERS, recurrence
from runtime.samplers.schedules import SchedulerConfig
from saferedir.cli import main

trt = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX has no wheel for this platform")
PROFILE = Profile(Span(1, 1, 4), Span(32, 64, 128), Span(64, 64, 64))


def job(demo_engines, name, tmp_path, onnx_file=None):
    geometry = Manifest.read(demo_engines)[0].geometry
    return PlanJob(onnx_file or demo_engines / name / "model.onnx", NETWORKS[name], PROFILE, geometry, tmp_path / "model.plan")


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("targets", [(), ("86", "120")], ids=["portable", "targets"])
def test_builds(demo_engines, tmp_path, name, targets):
    phases: list[str] = []
    build_plan(trt, job(demo_engines, name, tmp_path), PlanOptions(target_sm=targets), phases.append)
    assert [path.name for path in tmp_path.iterdir()] == ["model.plan"]
    assert (tmp_path / "model.plan").stat().st_size > 10_000
    assert phases[0] == "Building engine" and any("/" in phase for phase in phases)


@pytest.mark.parametrize(
    "options",
    [
        PlanOptions(hardware_compatibility="ampere-plus"),
        PlanOptions(version_compatible=True),
        PlanOptions(workspace_gib=0.5, optimization_level=1),
    ],
    ids=str,
)
def test_options_of_tensorrt_are_taken_by_the_common_api(demo_engines, tmp_path, options):
    build_plan(trt, job(demo_engines, "sampler_step", tmp_path), options)
    assert (tmp_path / "model.plan").stat().st_size > 10_000


def test_timing_cache_is_written_and_read_and_a_foreign_one_replaced(demo_engines, tmp_path):
    timings = tmp_path / "timing.cache"
    for before in (None, "kept", b"of another GPU"):
        if isinstance(before, bytes):
            timings.write_bytes(before)
        build_plan(trt, job(demo_engines, "sampler_step", tmp_path), PlanOptions(timing_cache=timings))
        assert len(timings.read_bytes()) > 50
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.plan", "timing.cache"]


def test_an_unsupported_operator_is_named(demo_engines, tmp_path):
    node = onnx.helper.make_node("NoSuchOperator", ["latent"], ["images"], name="the_node")
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph([node], "g", [info("latent", 1, [1])], [info("images", 1, [1])])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "model.onnx")
    with pytest.raises(PlanError, match=r"vae_decoder: TensorRT cannot read model.onnx: node the_node \(NoSuchOperator\)"):
        build_plan(trt, job(demo_engines, "vae_decoder", tmp_path, tmp_path / "model.onnx"), PlanOptions())
    assert not (tmp_path / "model.plan").exists()


def test_another_network_is_refused(demo_engines, tmp_path):
    other = demo_engines / "vae_decoder" / "model.onnx"
    with pytest.raises(PlanError, match="text_encoder: "):
        build_plan(trt, job(demo_engines, "text_encoder", tmp_path, other), PlanOptions())
    assert not (tmp_path / "model.plan").exists()


def test_an_interrupt_ends_the_build_and_leaves_nothing(demo_engines, tmp_path):
    threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGINT)).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        for _ in range(10):
            build_plan(trt, job(demo_engines, "unet", tmp_path), PlanOptions())
            (tmp_path / "model.plan").unlink()
    assert time.monotonic() - started < 30 and not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_while_the_file_is_read(demo_engines, tmp_path, monkeypatch):
    class Parser(trt.OnnxParser):
        def parse_from_file(self, path):
            signal.raise_signal(signal.SIGINT)
            return super().parse_from_file(path)

    monkeypatch.setattr(trt, "OnnxParser", Parser)
    phases: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        build_plan(trt, job(demo_engines, "sampler_step", tmp_path), PlanOptions(), phases.append)
    assert not phases and not list(tmp_path.iterdir())


def test_profile_shapes(demo_engines):
    geometry = Manifest.read(demo_engines)[0].geometry
    sample, _, text = NETWORKS["unet"].inputs
    assert PROFILE.shapes(sample, geometry, 1) == ((1, 4, 8, 16), (1, 4, 16, 16), (4, 4, 32, 16))
    assert PROFILE.shapes(text, geometry, 1) == ((1, 77, 96), (2, 77, 96), (8, 77, 96))
    inputs = {tensor.name: tensor for tensor in (*NETWORKS["sampler_step"].inputs, *NETWORKS["guard"].inputs)}
    fewest, usual, most = SLOTS
    assert PROFILE.shapes(inputs["matrix"], geometry, 1) == tuple(
        (images, slots + 1, slots + 2) for images, slots in ((1, fewest), (1, usual), (4, most))
    )
    assert PROFILE.shapes(inputs["shifts"], geometry, 3) == ((3, 1, 77, 96), (3, 2, 77, 96), (3, 8, 77, 96))


def test_every_sampler_fits_the_profile():
    schedule = SchedulerConfig.read(json.loads((DEMO_MODEL / "scheduler" / "scheduler_config.json").read_text()))
    assert all(SLOTS[0] <= recurrence(name, 10, schedule).slots <= SLOTS[-1] for name in SAMPLERS)


def gpu() -> bool:
    try:
        open_cuda()
    except BackendError:
        return False
    return True


def test_building_for_tensorrt_needs_it_and_says_so(tmp_path, capsys):
    try:
        import_tensorrt("tensorrt", BUILDERS)
    except BackendError:
        assert main(["build", "--backend", "tensorrt", "--engine-dir", str(tmp_path / "e")]) == 2
        assert "tensorrt: expected one of the modules tensorrt, tensorrt_bindings, found none" in capsys.readouterr().err
        assert not (tmp_path / "e").exists()
    else:
        pytest.skip("TensorRT is installed here")


def test_the_whole_build(tmp_path, capsys):
    """From the command to a manifest that says what the engines are tied to; another target rebuilds all."""
    folder = tmp_path / "rtx"
    command = ["--backend", "tensorrt-rtx", "--batch-size", "1:2:4", "--engine-dir", str(folder)]
    assert main(["build", *command]) == 0
    manifest = Manifest.read(folder)[0]
    assert manifest.sizes == Sizes("1:2:4", "64:64:64", "64:64:64")
    assert manifest.target.compute_capabilities == "portable" and manifest.parity_of == "onnx"
    expected = [f"{name}/{file}" for name in NETWORKS for file in ("model.plan", "parity.npz")]
    assert sorted(manifest.files) == sorted([*expected, "tokenizer/tokenizer.json"])
    assert set(manifest.parity) == set(NETWORKS)
    assert main(["build", *command]) == 0 and "nothing changed" in capsys.readouterr().out
    if not gpu():
        with pytest.raises(BackendError, match="expected an NVIDIA GPU and its driver"):
            GuardedPipeline(folder)
    assert main(["build", *command, "--target-sm", "89", "--keep-onnx"]) == 0
    assert "unet (target)" in capsys.readouterr().out
    assert Manifest.read(folder)[0].target.compute_capabilities == "8.9"
    assert (folder / "unet" / "model.onnx").exists() and (folder / "unet" / "model.plan").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--height", "98"], "height: expected multiples of 4 pixels, found 98; nearest: 96 or 100"),
        (["--batch-size", "2:1"], "batch-size: expected MIN:OPT:MAX in rising order or one number, at most 16384, found '2:1'"),
        (["--keep-onnx"], "--keep-onnx: for tensorrt and tensorrt-rtx only"),
        (
            ["--backend", "tensorrt-rtx", "--version-compatible"],
            "--version-compatible: for tensorrt only, found --backend tensorrt",
        ),
        (["--backend", "tensorrt", "--target-sm", "89"], "--target-sm: for tensorrt-rtx only"),
        (["--backend", "tensorrt-rtx", "--width", "98"], "width: expected multiples of 4 pixels"),
    ],
)
def test_options(arguments, message, capsys):
    assert main(["build", *arguments]) == 2
    assert message in capsys.readouterr().err
