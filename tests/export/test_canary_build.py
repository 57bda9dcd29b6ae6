"""The build takes canaries and defaults from a checkpoint, and accepts no guard that misses a canary."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engines.canary import Canary
from engines.errors import BackendError, CanaryError, InputError
from engines.manifest import Manifest
from engines.networks import NETWORKS
from engines.policy import Policy
from export.build import build
from export.build_command import DEMO_MODEL, DEMO_REDIRECTOR, options
from runtime import GuardedPipeline
from saferedir.checkpoint import load_redirector, save_redirector
from saferedir.cli import main, parse
from saferedir.metadata import Metadata, read_metadata

FIRE = {"prompt": "a burning blue square", "unsafe": True, "seed": 3}


def build_with(*arguments: str) -> list[str]:
    lines: list[str] = []
    build(options(parse(["build", *arguments])), lines.append)
    return lines


@pytest.fixture
def folder(demo_engines, tmp_path) -> Path:
    return shutil.copytree(demo_engines, tmp_path / "demo")


@pytest.fixture
def file(tmp_path):
    """Writes a file of canaries; its name as an option."""

    def write(content: object) -> str:
        (tmp_path / "canaries.json").write_text(content if isinstance(content, str) else json.dumps(content))
        return f"--canaries={tmp_path / 'canaries.json'}"

    return write


def test_a_guard_with_swapped_classes_is_refused_and_the_engines_stay(folder, tmp_path):
    swapped, before = load_redirector(DEMO_REDIRECTOR), (folder / "manifest.json").read_bytes()
    with torch.no_grad():
        for name in ("weight", "bias"):
            parameter = getattr(swapped.classifier[3], name)
            parameter.copy_(parameter.flip(0))
    path = tmp_path / "swapped.safetensors"
    save_redirector(swapped, path, read_metadata(DEMO_REDIRECTOR))
    with pytest.raises(CanaryError, match="fire: canary '.*', seed 0: expected safe, .* found 0.9.*does not guard"):
        build_with("--engine-dir", str(folder), "--model", str(DEMO_MODEL), "--redirector", str(path))
    assert (folder / "manifest.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo", "swapped.safetensors"]
    GuardedPipeline(folder).close()


def test_a_file_takes_the_place_of_the_checkpoints_canaries(folder, file):
    lines = build_with("--engine-dir", str(folder), file({"fire": [FIRE]}))
    assert "because of guards" in lines[0] and sum("unchanged, kept" in line for line in lines) == len(NETWORKS) + 1
    assert "1 canaries: judged rightly" in lines
    (canary,) = Manifest.read(folder)[0].guards[0].canaries
    assert (canary.prompt, canary.seed, canary.timestep) == ("a burning blue square", 3, 981) and canary.p_unsafe > 0.9
    assert "nothing changed" in build_with("--engine-dir", str(folder), file({"fire": [FIRE]}))[0]
    build_with("--engine-dir", str(folder), file({"fire": []}))
    assert Manifest.read(folder)[0].guards[0].canaries == []


def test_a_file_that_the_guard_does_not_live_up_to(folder, file, capsys):
    before = (folder / "manifest.json").read_bytes()
    assert main(["build", "--engine-dir", str(folder), file({"fire": [{**FIRE, "unsafe": False}]})]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: fire: canary 'a burning blue square', seed 3: expected safe") and error.count("\n") == 1
    assert (folder / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    "content, message",
    [
        ({"smoke": [FIRE]}, "expected concepts of fire, found 'smoke'"),
        ({"fire": FIRE}, "expected an object with a list for each concept"),
        ([FIRE], "expected an object with a list for each concept"),
        ({"fire": [{**FIRE, "p": 1}]}, r"fire\[0\]: expected only known fields, found 'p'"),
        ({"fire": [{**FIRE, "seed": "1"}]}, r"fire\[0\].seed: expected an integer, found '1'"),
        ("nonsense", "canaries.json: expected canaries in JSON, cannot be used"),
        ("[" * 100_000, "canaries.json: expected canaries in JSON, cannot be used"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_other_files_are_refused(file, content, message):
    with pytest.raises(InputError, match=message):
        options(parse(["build", file(content)]))


def test_canaries_need_a_guard(file):
    with pytest.raises(InputError, match="--unguarded and --canaries: expected one of them, found both"):
        options(parse(["build", "--unguarded", file({})]))


def test_engines_that_cannot_run_here_are_judged_by_their_first_load(folder, file, monkeypatch):
    def missing(*arguments):
        raise BackendError("no such device")

    with monkeypatch.context() as patched:
        patched.setattr("export.canaries.open_backend", missing)
        wrong = {**FIRE, "unsafe": False}
        lines = build_with("--engine-dir", str(folder), file({"fire": [wrong]}))
    assert any("1 canaries: not run, for the engines cannot run here (no such device)" in line for line in lines)
    assert Manifest.read(folder)[0].guards[0].canaries[0].p_unsafe is None
    with pytest.raises(CanaryError, match="expected safe"):
        GuardedPipeline(folder)


METADATA = Metadata([Canary("a burning star", True, 1)], True, Policy(threshold=0.25, shift="conditional"), "before", "flames")


@pytest.mark.parametrize(
    "given, policy, check, concept",
    [
        ([], METADATA.policy, "before", "flames"),
        (["--threshold", "0.75"], replace(METADATA.policy, threshold=0.75), "before", "flames"),
        (["--shift", "both", "--check", "auto"], replace(METADATA.policy, shift="both"), "auto", "flames"),
        (["--concept", "heat"], METADATA.policy, "before", "heat"),
    ],
)
def test_defaults_are_the_checkpoints(tmp_path, given, policy, check, concept):
    path = tmp_path / "fire.safetensors"
    save_redirector(load_redirector(DEMO_REDIRECTOR), path, METADATA)
    request = options(parse(["build", "--redirector", str(path), *given]))
    (checkpoint,) = request.checkpoints
    assert (checkpoint.policy, request.check, checkpoint.concept) == (policy, check, concept)
    assert checkpoint.final_check and checkpoint.canaries == tuple(METADATA.canaries)


def test_the_report_says_whether_the_final_check_means_something(demo_engines, folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["guards"][0]["final_check"] = True
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for engines, trusted in ((demo_engines, False), (folder, True)):
        with GuardedPipeline(engines) as pipeline:
            fire, plain = pipeline(["a burning blue square", "a blue square"], seed=7, num_inference_steps=8).reports
        assert fire.verdict == "redirected" and fire.guards[0].final_check_trusted is trusted
        assert ("final check is not proven" in str(fire)) is not trusted
        assert "not proven" not in str(plain)
