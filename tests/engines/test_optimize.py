"""`saferedir optimize`: the same pictures from files for one kind of CPU, refused on another."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest

from engines import optimize
from engines.backends.onnxruntime_cpu import OnnxRuntimeBackend
from engines.errors import BackendError, DigestError, InputError, ParityError
from engines.manifest import Manifest
from engines.store.engine_store import EngineStore
from export.build import build
from export.build_command import options
from runtime import GuardedPipeline
from saferedir.cli import main, parse

PROMPTS = ["a burning blue square", "a small red star"]


@pytest.fixture(scope="module")
def optimized(demo_engines, tmp_path_factory):
    folder = tmp_path_factory.mktemp("optimized") / "demo"
    assert main(["optimize", str(demo_engines), "--output", str(folder)]) == 0
    return folder


def edit(folder, **changed):
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


def test_pictures_and_decisions_are_the_same(optimized, pipeline):
    expected = pipeline(PROMPTS, seed=7, num_inference_steps=8)
    with GuardedPipeline(optimized) as opened:
        found = opened(PROMPTS, seed=7, num_inference_steps=8)
    for ours, theirs in zip(found.images, expected.images, strict=True):
        assert np.array_equal(np.asarray(ours), np.asarray(theirs))
    strip = [dataclasses.replace(report, manifest_digest="") for report in found.reports]
    assert strip == [dataclasses.replace(report, manifest_digest="") for report in expected.reports]
    assert [report.verdict for report in found.reports] == ["redirected", "safe"]


def test_files_are_the_manifests(optimized, demo_engines):
    manifest, portable = Manifest.read(optimized)[0], EngineStore(demo_engines)
    assert set(manifest.files) | {"manifest.json"} == {
        path.relative_to(optimized).as_posix() for path in optimized.rglob("*") if path.is_file()
    }
    assert manifest.guards == portable.manifest.guards
    assert manifest.optimized_for == OnnxRuntimeBackend.device
    assert all(recipe["optimized from"] == portable.digest for recipe in manifest.recipe.values())


def test_packed_weights_are_in_the_file(optimized, demo_engines):
    assert (optimized / "unet" / "model.onnx.data").stat().st_size > 1.2 * (demo_engines / "unet" / "model.onnx").stat().st_size


def test_another_device_is_refused(optimized, tmp_path):
    folder = shutil.copytree(optimized, tmp_path / "shipped")
    edit(folder, optimized_for="ONNX Runtime 0.1, CPU abacus")
    with pytest.raises(BackendError, match="optimised for, ONNX Runtime 0.1, CPU abacus; found .* saferedir optimize"):
        GuardedPipeline(folder)


def test_altered_weights_are_refused(optimized, tmp_path):
    folder = shutil.copytree(optimized, tmp_path / "altered")
    with open(folder / "guard" / "model.onnx.data", "r+b") as file:
        file.seek(100)
        file.write(b"\x01\x02\x03")
    with pytest.raises(DigestError, match="guard/model.onnx.data: altered"):
        GuardedPipeline(folder)


def test_the_guard_has_a_copy_of_its_weights_of_its_own(optimized, tmp_path):
    """Written over in place after the start: the pictures and decisions are the same, and the process lives."""
    folder = shutil.copytree(optimized, tmp_path / "demo")
    with GuardedPipeline(folder) as opened:
        expected = opened(PROMPTS, seed=7, num_inference_steps=4)
        for network in ("guard", "token_mask"):
            path = folder / network / "model.onnx.data"
            if path.exists():
                with open(path, "r+b") as file:
                    file.write(bytes(path.stat().st_size))
                os.truncate(path, 0)
        found = opened(PROMPTS, seed=7, num_inference_steps=4)
    assert found.reports == expected.reports


def test_weights_that_change_while_they_are_loaded(optimized, tmp_path):
    folder, changes = shutil.copytree(optimized, tmp_path / "demo"), [2]

    class Changing(OnnxRuntimeBackend):
        def load(self, path, spec, contents=None):
            engine = super().load(path, spec, contents)
            if changes[0]:
                changes[0] -= 1
                path.with_name("model.onnx.data").chmod(0o644)
            return engine

    with pytest.raises(DigestError, match="model.onnx(.data)?: changed while it was loaded; load it again"):
        EngineStore(folder).load(["unet"], Changing())
    changes[0] = 1
    assert EngineStore(folder).load(["unet"], Changing())["unet"]


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"backend": "openvino"}, "expected portable engines for onnxruntime, found openvino"),
        ({"optimized_for": "here"}, "found engines that are optimised already"),
    ],
    ids=["openvino", "optimized"],
)
def test_only_portable_engines_of_onnx_runtime(demo_engines, tmp_path, changed, message, capsys):
    folder = shutil.copytree(demo_engines, tmp_path / "demo")
    edit(folder, **changed)
    assert main(["optimize", str(folder)]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_nothing_else_is_overwritten(demo_engines, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="found 'thesis.txt' and no manifest; choose another --output"):
        optimize.optimize(EngineStore(demo_engines), tmp_path / "mine")
    with pytest.raises(InputError, match="apart from the engines', found .* itself"):
        optimize.optimize(EngineStore(demo_engines), demo_engines)
    with pytest.raises(InputError, match="apart from the engines', found one inside"):
        optimize.optimize(EngineStore(demo_engines), demo_engines / "optimized")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_a_network_that_fails_the_gate_is_not_written(demo_engines, tmp_path, monkeypatch):
    cases = EngineStore.cases
    monkeypatch.setattr(
        EngineStore,
        "cases",
        lambda self, network: (
            [
                dataclasses.replace(case, outputs={name: 1 - value for name, value in case.outputs.items()})
                for case in cases(self, network)
            ]
            if network == "token_mask"
            else cases(self, network)
        ),
    )
    with pytest.raises(ParityError, match="token_mask"):
        optimize.optimize(EngineStore(demo_engines), tmp_path / "demo")
    assert not list(tmp_path.iterdir())


def test_a_build_into_the_folder_makes_it_portable_again(optimized, tmp_path, demo_engines):
    folder = shutil.copytree(optimized, tmp_path / "demo")
    build(options(parse(["build", "--engine-dir", str(folder)])))
    found, portable = Manifest.read(folder)[0], Manifest.read(demo_engines)[0]
    assert found.optimized_for is None and found.recipe == portable.recipe and set(found.files) == set(portable.files)
