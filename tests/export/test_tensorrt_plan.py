"""Real TensorRT-RTX builds of all networks (no GPU needed), and what its errors look like."""
from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import onnx
import pytest

from engines.errors import BackendError, InputError
from engines.manifest import Manifest
from engines.specs import NETWORKS
from export import build_engines
from export.shape_profile import Profile, Span
from export.tensorrt_plan import PlanError, PlanOptions, build_plan
from runtime import GuardedPipeline

trt = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX has no wheel for this platform")
PROFILE = Profile(Span(1, 1, 4), Span(32, 64, 128), Span(64, 64, 64))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("targets", [(), ("86", "120")], ids=["portable", "targets"])
def test_builds(demo_engines, tmp_path, name, targets):
    geometry = Manifest.read(demo_engines)[0].geometry
    build_plan(trt, demo_engines / name / "model.onnx", NETWORKS[name], PROFILE, geometry, PlanOptions(target_sm=targets),
               tmp_path / "model.plan")
    assert [path.name for path in tmp_path.iterdir()] == ["model.plan"]
    assert (tmp_path / "model.plan").stat().st_size > 10_000


def test_an_unsupported_operator_is_named(tmp_path):
    node = onnx.helper.make_node("NoSuchOperator", ["latent"], ["images"], name="the_node")
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph([node], "g", [info("latent", 1, [1])], [info("images", 1, [1])])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "model.onnx")
    with pytest.raises(PlanError, match=r"vae_decoder: TensorRT cannot read model.onnx: node the_node \(NoSuchOperator\)"):
        build_plan(trt, tmp_path / "model.onnx", NETWORKS["vae_decoder"], PROFILE, None, PlanOptions(), tmp_path / "model.plan")
    assert not (tmp_path / "model.plan").exists()


def test_another_network_is_refused(demo_engines, tmp_path):
    geometry = Manifest.read(demo_engines)[0].geometry
    with pytest.raises(PlanError, match="text_encoder: "):
        build_plan(trt, demo_engines / "vae_decoder" / "model.onnx", NETWORKS["text_encoder"], PROFILE, geometry, PlanOptions(),
                   tmp_path / "model.plan")
    assert not (tmp_path / "model.plan").exists()


def test_an_interrupt_ends_the_build_and_leaves_nothing(demo_engines, tmp_path):
    geometry = Manifest.read(demo_engines)[0].geometry
    threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGINT)).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        for _ in range(10):
            build_plan(trt, demo_engines / "unet" / "model.onnx", NETWORKS["unet"], PROFILE, geometry, PlanOptions(),
                       tmp_path / "model.plan")
            (tmp_path / "model.plan").unlink()
    assert time.monotonic() - started < 30 and not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_profile_shapes(demo_engines):
    geometry = Manifest.read(demo_engines)[0].geometry
    sample, _, text = NETWORKS["unet"].inputs
    assert PROFILE.shapes(sample, geometry) == ((1, 4, 8, 16), (2, 4, 16, 16), (8, 4, 32, 16))
    assert PROFILE.shapes(text, geometry) == ((1, 77, 96), (2, 77, 96), (8, 77, 96))
    coefficients = next(tensor for tensor in NETWORKS["sampler_step"].inputs if tensor.name == "coefficients")
    assert np.ravel(PROFILE.shapes(coefficients, geometry)).tolist() == [8, 8, 11]


@pytest.mark.parametrize("text, message", [
    ("4:2:8", "rising order"), ("a", "MIN:OPT:MAX"), ("1:2", "MIN:OPT:MAX"), ("0", "rising order"), ("", "MIN:OPT:MAX"),
    ("64:100:128", "expected multiples of 16 pixels, found 100; nearest: 96 or 112")])
def test_spans(text, message):
    assert Span.parse("height", "64", 16) == Span(64, 64, 64) and str(Span.parse("height", "16:32:64", 16)) == "16:32:64"
    with pytest.raises(InputError, match=f"height: .*{message}"):
        Span.parse("height", text, 16)


def test_the_whole_build(tmp_path, capsys):
    """From the command to a manifest that says what the engines are tied to; another target rebuilds all."""
    folder = tmp_path / "rtx"
    command = ["--backend", "tensorrt-rtx", "--batch-size", "1:2:4", "--engine-dir", str(folder)]
    assert build_engines.main(command) == 0
    manifest = Manifest.read(folder)[0]
    assert manifest.target["batch_size"] == "1:2:4" and manifest.target["height"] == "64:64:64"
    assert manifest.target["compute_capabilities"] == "portable" and manifest.target["engine_parity"].startswith("pending")
    assert sorted(manifest.files) == sorted([*(f"{name}/model.plan" for name in NETWORKS), "tokenizer/tokenizer.json"])
    assert set(manifest.parity) == set(NETWORKS)
    assert build_engines.main(command) == 0 and "nothing changed" in capsys.readouterr().out
    with pytest.raises(BackendError, match="this release cannot run them"):
        GuardedPipeline(folder)
    assert build_engines.main([*command, "--target-sm", "89", "--keep-onnx"]) == 0
    assert "unet (target)" in capsys.readouterr().out
    assert Manifest.read(folder)[0].target["compute_capabilities"] == "89"
    assert (folder / "unet" / "model.onnx").exists() and (folder / "unet" / "model.plan").exists()


@pytest.mark.parametrize("arguments, message", [
    (["--height", "512"], "--height: for TensorRT only"), (["--keep-onnx"], "--keep-onnx: for TensorRT only"),
    (["--backend", "tensorrt-rtx", "--width", "100"], "width: expected multiples of 16 pixels")])
def test_options(arguments, message, capsys):
    assert build_engines.main(arguments) == 2
    assert message in capsys.readouterr().err
