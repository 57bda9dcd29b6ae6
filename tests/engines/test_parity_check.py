"""Engines that have not met their device are held to PyTorch's recorded outputs before they generate anything."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from engines.errors import DigestError, ManifestError, ParityError
from engines.manifest import Manifest
from engines.networks import GUARD_NETWORKS, NETWORKS
from engines.store import recorded_cases as recorded
from engines.store.recorded_cases import Case, load_cases, save_cases
from runtime import GuardedPipeline
from saferedir.cli import main

OTHER = "ONNX Runtime 1.0, CPU x86_64 with avx"
PLAIN = "a small red star"


@pytest.fixture
def pending(plans):
    """Plans of a build that had no GPU."""
    path = plans / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "parity_of": "onnx", "compared_on": {}}))
    return plans


@pytest.fixture
def checked(monkeypatch):
    """Networks that are run on recorded inputs, in order."""
    names: list[str] = []
    run = recorded.run_once
    monkeypatch.setattr(recorded, "run_once", lambda engine, *rest: names.append(engine.spec.name) or run(engine, *rest))
    return names


def test_the_first_load_verifies_and_remembers(pending, device, checked):
    device()
    for _ in range(2):
        with GuardedPipeline(pending) as opened:
            assert opened(PLAIN, seed=0, num_inference_steps=2).reports[0].verdict == "safe"
    assert checked == [name for name in NETWORKS for _ in range(2)]  # two recorded cases each, once
    with GuardedPipeline(pending, unguarded=True):
        pass
    assert len(checked) == 4 * len(NETWORKS) - 2 * len(GUARD_NETWORKS), "what passed without the guard is another thing"


def test_another_library_verifies_again(pending, device, checked, monkeypatch):
    device()
    with GuardedPipeline(pending):
        pass
    device(version="9.9")
    with GuardedPipeline(pending):
        pass
    assert len(checked) == 4 * len(NETWORKS)


def test_a_failure_refuses_and_is_not_remembered(pending, device, monkeypatch):
    device()
    run = recorded.run_once

    def off(engine, *rest):
        found = run(engine, *rest)
        return {**found, "p_unsafe": found["p_unsafe"] + np.float32(0.1)} if engine.spec.name == "guard" else found

    monkeypatch.setattr(recorded, "run_once", off)
    for _ in range(2):
        with pytest.raises(ParityError, match="demo: guard.p_unsafe: expected PyTorch's values .* on .*; build them there"):
            GuardedPipeline(pending)


def test_a_recording_must_be_the_one_that_was_built(pending, device):
    device()
    (pending / "guard" / "parity.npz").write_bytes((pending / "unet" / "parity.npz").read_bytes())
    with pytest.raises(DigestError, match="guard/parity.npz: altered"):
        GuardedPipeline(pending)


def test_engines_that_passed_at_build_are_not_run_again(demo_engines, checked):
    manifest = Manifest.read(demo_engines)[0]
    with GuardedPipeline(demo_engines) as opened:
        assert manifest.parity_of == "engine" and manifest.compared_on == dict.fromkeys(NETWORKS, opened.device)
    assert checked == []


def test_int8_engines_of_another_processor_are_compared_once(demo_engines, tmp_path, checked, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = shutil.copytree(demo_engines, tmp_path / "demo")
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["recipe"]["unet"]["precision"] = "int8"
    path.write_text(json.dumps({**manifest, "compared_on": dict.fromkeys(NETWORKS, OTHER)}))
    for _ in range(2):
        with GuardedPipeline(folder):
            pass
    assert checked == ["unet", "unet"]


def test_command(demo_engines, capsys, tmp_path):
    assert main(["verify", str(demo_engines)]) == 0
    printed = capsys.readouterr().out
    assert "ONNX Runtime" in printed
    figures = Manifest.read(demo_engines)[0].parity
    for network, outputs in figures.items():
        assert all(any(line.split()[:2] == [network, output] for line in printed.splitlines()) for output in outputs)
    folder = shutil.copytree(demo_engines, tmp_path / "demo")
    (folder / "unet" / "parity.npz").unlink()
    assert main(["verify", str(folder)]) == 2
    assert "unet/parity.npz: missing" in capsys.readouterr().err


def test_cases_round_trip(tmp_path):
    case = Case({"B": 2}, {"latent": np.ones((2, 4), np.float32), "timestep": np.float32(3)}, {"finite": np.array([True, False])})
    save_cases(tmp_path / "parity.npz", [case, case])
    first, second = load_cases(tmp_path / "parity.npz")
    assert first.sizes == {"B": 2} and first.inputs["timestep"].shape == () and first.inputs["timestep"].dtype == np.float32
    assert np.array_equal(second.outputs["finite"], [True, False])
    (tmp_path / "parity.npz").write_bytes(b"junk")
    with pytest.raises(ManifestError, match="expected recorded inputs and outputs"):
        load_cases(tmp_path / "parity.npz")
