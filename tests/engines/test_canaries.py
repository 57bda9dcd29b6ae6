"""Canaries are row 0 of a run, and a guard that misses one does not load."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from engines.backends.registry import open_backend
from engines.canary import FIRST_OF_50, Canary, CanaryRecord
from engines.errors import CanaryError, InputError
from engines.manifest import Manifest
from engines.prompts import PromptTokenizer
from engines.sizes import Sizes
from engines.store.canaries import RUN_BY, TOLERANCE, check_canaries
from engines.store.engine_store import TOKENIZER_FILE, EngineStore
from runtime import GuardedPipeline
from runtime.samplers.registry import recurrence
from runtime.samplers.schedules import SchedulerConfig
from saferedir.cli import main
from tests.conftest import opened

FIRE, PLAIN = "a burning blue square", "a blue square"


@pytest.fixture
def folder(demo_engines, tmp_path) -> Path:
    return shutil.copytree(demo_engines, tmp_path / "demo")


def edit(folder: Path, place: int, **changes: object) -> None:
    """Change the first guard's canary at `place` in the manifest, or with no changes drop all canaries."""
    manifest = json.loads((folder / "manifest.json").read_text())
    guard = manifest["guards"][0]
    guard["canaries"] = [] if not changes else guard["canaries"]
    if changes:
        guard["canaries"][place] |= changes
    (folder / "manifest.json").write_text(json.dumps(manifest))


class Watched:
    """An engine whose tensors are shown after each call."""

    def __init__(self, engine, show):
        self.spec, self._engine, self._show = engine.spec, engine, show

    def bind(self, **tensors):
        run = self._engine.bind(**tensors)
        return lambda: (run(), self._show(tensors))


def loaded(folder: Path):
    """What `check_canaries` is given for the engines of a folder."""
    store = EngineStore(folder)
    backend = open_backend(store.manifest.backend)
    return store.manifest, backend, store.load(RUN_BY, backend), PromptTokenizer(Path(), store.read(TOKENIZER_FILE))


def test_the_build_records_what_the_guard_gave(demo_engines):
    canaries = Manifest.read(demo_engines)[0].guards[0].canaries
    assert [canary.unsafe for canary in canaries] == [False, True, False, True]
    assert all(canary.p_unsafe > 0.9 if canary.unsafe else canary.p_unsafe < 0.1 for canary in canaries)


@pytest.mark.parametrize("check", ["before", "beside"])
def test_a_canary_is_row_0_of_a_run(demo_engines, pipeline, check):
    schedule = SchedulerConfig.read(pipeline.manifest.scheduler)
    assert recurrence("ddim", 50, schedule).timesteps[0] == FIRST_OF_50
    timestep = int(recurrence("ddim", 4, schedule).timesteps[0])
    manifest, *engines = loaded(demo_engines)
    asked = [CanaryRecord(FIRE, True, 5, timestep), CanaryRecord(PLAIN, False, 6, timestep)]
    guard = check_canaries(replace(manifest, guards=[replace(manifest.guards[0], canaries=asked)]), *engines)[0]
    result = pipeline([FIRE, PLAIN], seed=5, num_inference_steps=4, scheduler="ddim", check=check)
    for canary, report in zip(guard.canaries, result.reports, strict=True):
        assert canary.p_unsafe == pytest.approx(report.guards[0].p_unsafe[0], abs=1e-6)


@pytest.mark.parametrize(
    "place, changes, message",
    [
        (1, {"p_unsafe": 0.9}, "expected p_unsafe 0.900000 within 0.05, as at the build, found 0.99.*altered"),
        (0, {"p_unsafe": 0.2}, "expected p_unsafe 0.200000 within 0.05, as at the build, found 0.0"),
        (0, {"unsafe": True}, "expected unsafe, p_unsafe above the threshold [0-9.]+, found 0.0"),
        (1, {"unsafe": False, "p_unsafe": None}, "expected safe, p_unsafe not above the threshold [0-9.]+, found 0.99"),
    ],
)
def test_a_missed_canary_does_not_load(folder, capsys, place, changes, message):
    edit(folder, place, **changes)
    with pytest.raises(CanaryError, match=f"fire: canary '.*', seed 0: {message}"):
        GuardedPipeline(folder)
    GuardedPipeline(folder, unguarded=True).close()
    assert main(["verify", str(folder)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: fire: canary ") and error.count("\n") == 1


@pytest.mark.parametrize("p_unsafe", [np.nan, np.inf, -1, 1.5])
@pytest.mark.parametrize("place", [0, 1])
def test_what_is_no_probability_misses(demo_engines, p_unsafe, place):
    manifest, backend, engines, tokenizer = loaded(demo_engines)
    asked = [replace(manifest.guards[0].canaries[place], p_unsafe=None)]
    manifest = replace(manifest, guards=[replace(manifest.guards[0], canaries=asked)])
    engines["guard"] = Watched(engines["guard"], lambda tensors: tensors["p_unsafe"].fill(p_unsafe))
    with pytest.raises(CanaryError, match="such a guard does not guard"):
        check_canaries(manifest, backend, engines, tokenizer)


def test_a_guard_that_does_not_run_misses(demo_engines):
    manifest, backend, engines, tokenizer = loaded(demo_engines)
    engines["guard"] = SimpleNamespace(bind=lambda **tensors: lambda: None)
    with pytest.raises(CanaryError, match="found nan"):
        check_canaries(manifest, backend, engines, tokenizer)


def test_verify_says_what_the_guard_gave(demo_engines, capsys):
    assert main(["verify", str(demo_engines)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("canary fire: ")]
    assert len(lines) == 4
    for line, canary in zip(lines, Manifest.read(demo_engines)[0].guards[0].canaries, strict=True):
        assert canary.answer in line and f"at the build p_unsafe {canary.p_unsafe:.6f}" in line and canary.prompt in line


def test_engines_without_canaries_load_and_inspect_says_so(folder, capsys):
    edit(folder, 0)
    with GuardedPipeline(folder) as pipeline:
        assert pipeline.manifest.guards[0].canaries == []
    assert main(["verify", str(folder)]) == 0 and main(["inspect", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "no canaries" in printed and "canary fire" not in printed


def test_inspect_shows_canaries_and_the_final_check(demo_engines, capsys):
    assert main(["inspect", str(demo_engines)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("canary ") and "p_unsafe" in line for line in lines) == 4
    assert any(line.startswith("final check") and "not proven" in line for line in lines)


def test_engines_that_take_no_single_image(demo_engines):
    """The smallest batch that they take is run, of equal images."""
    manifest, backend, engines, tokenizer = loaded(demo_engines)
    seen = []
    engines["guard"] = Watched(engines["guard"], lambda tensors: seen.append(tensors["p_unsafe"].tolist()))
    check_canaries(replace(manifest, sizes=Sizes(batch_size="2:3:4")), backend, engines, tokenizer)
    assert len(seen) == 4
    for ((first, second),) in seen:
        assert first == pytest.approx(second, abs=1e-6)


def test_plans_are_asked_when_they_are_loaded(plans, device):
    device()
    GuardedPipeline(plans).close()
    edit(plans, 1, unsafe=False, p_unsafe=None)
    device()
    with pytest.raises(CanaryError, match="expected safe"):
        GuardedPipeline(plans)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_other_backends_give_the_same_within_the_tolerance(demo_engines, precision):
    """OpenVINO reads the ONNX files of ONNX Runtime; what was recorded there holds here."""
    manifest, _, _, tokenizer = loaded(demo_engines)
    backend, store = opened("openvino", precision), EngineStore(demo_engines)
    found = check_canaries(manifest, backend, store.load(RUN_BY, backend), tokenizer)[0]
    for now, built in zip(found.canaries, manifest.guards[0].canaries, strict=True):
        assert abs(now.p_unsafe - built.p_unsafe) < TOLERANCE / 10


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"prompt": None}, "prompt: expected text"),
        ({"unsafe": 1}, "unsafe: expected True or False"),
        ({"seed": 1.5}, "seed: expected an integer"),
        ({"timestep": -1}, "timestep: expected an integer from 0 to 999"),
    ],
)
def test_values_of_other_types_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        Canary(**{"prompt": "a", "unsafe": True, "seed": 0, **wrong})


@pytest.mark.parametrize("p_unsafe", [-0.1, 1.1, float("nan")])
def test_a_record_holds_a_probability(p_unsafe):
    with pytest.raises(InputError, match="p_unsafe: expected a probability"):
        CanaryRecord("a", True, 0, p_unsafe=p_unsafe)
