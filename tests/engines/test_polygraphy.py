"""Polygraphy reads and runs the demo's ONNX files, and compares engines of each backend with them."""

from __future__ import annotations

import shlex
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from engines.backends.onnxruntime_cpu import OnnxRuntimeBackend
from engines.backends.registry import open_backend
from engines.errors import BackendError, ManifestError, ParityError
from engines.networks import NETWORKS, NetworkSpec
from engines.store import polygraphy_check
from engines.store.engine_store import EngineStore
from engines.store.polygraphy_check import compare_with_onnx, print_comparison
from saferedir.cli import main
from tests.conftest import opened

ROOT = Path(__file__).resolve().parent.parent.parent

needs_polygraphy = pytest.mark.skipif(
    find_spec("polygraphy") is None, reason='Polygraphy is not installed: pip install "saferedir[polygraphy]"'
)


def polygraphy(*arguments: str | Path) -> str:
    """What the command prints."""
    command = Path(sysconfig.get_path("scripts")) / "polygraphy"
    done = subprocess.run([command, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Off:
    """An engine that gives one output otherwise than it should."""

    def __init__(self, engine, name, change):
        self.spec, self._engine, self._name, self._change = engine.spec, engine, name, change

    def bind(self, **tensors):
        run, output = self._engine.bind(**tensors), tensors[self._name]

        def changed():
            run()
            output[...] = self._change(output)

        return changed


def documented() -> list[list[str]]:
    """The commands of docs/gpu.md, split as a shell does."""
    lines = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8").splitlines()
    return [
        shlex.split(line)
        for line in lines
        if line.startswith(("    polygraphy ", "    saferedir verify engines/plans/demo --poly"))
    ]


def test_the_documents_have_the_commands():
    assert [command[:2] for command in documented()] == [
        ["polygraphy", "inspect"],
        ["polygraphy", "run"],
        ["polygraphy", "run"],
        ["saferedir", "verify"],
    ]


@needs_polygraphy
@pytest.mark.parametrize("command", documented(), ids=lambda command: " ".join(command[:3]))
def test_documented_commands(demo_engines, command, capsys):
    arguments = [part.replace("engines/plans/demo", str(demo_engines)) for part in command]
    if command[0] == "saferedir":
        assert main(arguments[1:]) == 0
        printed = capsys.readouterr().out
        assert "FAILED" not in printed and all(f"{name} " in printed for name in NETWORKS)
        return
    printed = polygraphy(*arguments[1:])
    network = command[2 if command[1] == "run" else 3].split("/")[-2]
    assert all(f"{tensor.name} [dtype={tensor.dtype}" in printed for tensor in NETWORKS[network].tensors)
    assert command[1] == "inspect" or "PASSED" in printed


@needs_polygraphy
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_engines_compute_what_their_onnx_files_do(demo_engines, name, capsys):
    print_comparison(EngineStore(demo_engines), opened(name, "float32"))
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    expected = [(spec.name, tensor.name, "passed") for spec in NETWORKS.values() for tensor in spec.outputs]
    assert [(line[0], line[1], line[-1]) for line in printed[2:]] == expected


@needs_polygraphy
def test_limits_are_those_of_the_precision(demo_engines):
    store, backend = EngineStore(demo_engines), opened("openvino", "bfloat16")
    engine, path = store.load(["text_encoder"], backend)["text_encoder"], demo_engines / "text_encoder" / "model.onnx"
    for precision, passed in (("bfloat16", True), ("float32", False)):
        (found,) = compare_with_onnx(engine, backend, path, store.cases("text_encoder"), precision).values()
        assert found.passed == passed


@needs_polygraphy
def test_a_tensorrt_plan_and_its_onnx_file(demo_engines, plans, device):
    device()
    store, backend = EngineStore(plans), open_backend("tensorrt-rtx")
    with pytest.raises(ManifestError, match="expected model.onnx beside the engine of text_encoder, .* --keep-onnx"):
        print_comparison(store, backend)
    engine = store.load(["unet"], backend)["unet"]
    found = compare_with_onnx(engine, backend, demo_engines / "unet" / "model.onnx", store.cases("unet"), "float32")
    assert all(difference.passed for difference in found.values())


@needs_polygraphy
def test_altered_weights_are_found(demo_engines, tmp_path, monkeypatch, capsys):
    import onnx
    from onnx import numpy_helper

    model = onnx.load(demo_engines / "unet" / "model.onnx")
    for weight in model.graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT:
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.02), weight.name))
    onnx.save(model, tmp_path / "model.onnx")
    backend, store = OnnxRuntimeBackend(), EngineStore(demo_engines)
    damaged = backend.load(tmp_path / "model.onnx", NETWORKS["unet"])
    load = store.load
    monkeypatch.setattr(EngineStore, "networks", ["token_mask", "unet"])
    monkeypatch.setattr(store, "load", lambda names, backend: {"unet": damaged} if names == ["unet"] else load(names, backend))
    with pytest.raises(ParityError, match=r"expected the ONNX files' outputs, found others: unet\.noise_pred$"):
        print_comparison(store, backend)
    verdicts = [(line.split()[0], line.split()[-1]) for line in capsys.readouterr().out.splitlines()[2:]]
    assert verdicts == [("token_mask", "passed"), ("unet", "FAILED")]


def first_output(dtype: str) -> tuple[NetworkSpec, str]:
    return next((spec, tensor.name) for spec in NETWORKS.values() for tensor in spec.outputs if tensor.dtype == dtype)


@needs_polygraphy
@pytest.mark.parametrize(
    "dtype, change, passed",
    [
        ("uint8", lambda values: values ^ 1, True),  # by one grey level
        ("uint8", lambda values: values ^ 2, False),
        ("int32", lambda values: values + 1, False),
        ("bool", np.logical_not, False),
        ("float32", lambda values: values * np.float32(1 + 1e-5), True),
        ("float32", lambda values: values * np.float32(1.01), False),
        ("float32", lambda values: np.where(np.arange(values.size).reshape(values.shape) == 7, np.nan, values), False),
        ("float32", lambda values: np.full_like(values, np.inf), False),
    ],
)
def test_limits_are_those_of_the_parity_gate(demo_engines, dtype, change, passed):
    spec, output = first_output(dtype)
    store, backend = EngineStore(demo_engines), OnnxRuntimeBackend()
    engine = Off(store.load([spec.name], backend)[spec.name], output, change)
    found = compare_with_onnx(engine, backend, demo_engines / spec.name / "model.onnx", store.cases(spec.name), "float32")
    assert {name: difference.passed for name, difference in found.items()} == {
        tensor.name: tensor.name != output or passed for tensor in spec.outputs
    }


@needs_polygraphy
def test_a_file_that_onnx_runtime_cannot_run(demo_engines, monkeypatch, capsys):
    """As with bfloat16 files on a CPU: the other networks are compared, and the error names the file."""
    session = polygraphy_check._session

    def refusing(onnx_file, spec):
        return session(onnx_file if spec.name != "unet" else demo_engines / "manifest.json", spec)

    monkeypatch.setattr(EngineStore, "networks", ["unet", "token_mask"])
    monkeypatch.setattr(polygraphy_check, "_session", refusing)
    with pytest.raises(BackendError, match="ONNX Runtime cannot run it on a CPU"):
        print_comparison(EngineStore(demo_engines), OnnxRuntimeBackend())
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert [(line[0], line[-1]) for line in lines] == [("unet", "compared"), ("token_mask", "passed")]
    assert lines[0][1:] == ["not", "compared"]


def test_not_installed(demo_engines, monkeypatch):
    monkeypatch.setitem(sys.modules, "polygraphy.comparator", None)
    with pytest.raises(BackendError, match=r'Polygraphy cannot be used .* pip install "saferedir\[polygraphy\]"'):
        print_comparison(EngineStore(demo_engines), OnnxRuntimeBackend())
