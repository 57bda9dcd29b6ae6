"""The table says what the manifest says; the doctor's, what runs here."""

from __future__ import annotations

from types import SimpleNamespace

from engines import doctor
from engines.backends.registry import BACKENDS
from engines.errors import BackendError
from engines.manifest import Manifest
from engines.networks import NETWORKS
from saferedir.cli import main


def test_inspect(demo_engines, capsys):
    manifest, digest = Manifest.read(demo_engines)
    assert main(["inspect", str(demo_engines)]) == 0
    printed = capsys.readouterr().out
    for part in (
        digest,
        manifest.guards[0].digest,
        "fire",
        "alpha_scale 1.25",
        "DDIMScheduler",
        "multiples of 4 pixels",
        *NETWORKS,
    ):
        assert part in printed


def test_doctor(capsys):
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = {tuple(line.split()[:3]): line for line in lines[1:]}
    assert {backend for backend, _, _ in found} == set(BACKENDS)
    assert ("onnxruntime", "runs", "yes") in found and ("onnxruntime", "builds", "yes") in found
    for (backend, verb, answer), line in found.items():
        assert answer == "yes" or len(line.split()) > 4, f"{backend} {verb}: no reason"


def test_doctor_without_any_library(monkeypatch, capsys):
    def broken(name, precision):
        raise BackendError(f"{name} is not installed")

    monkeypatch.setattr(doctor, "open_backend", broken)
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    assert main(["doctor"]) == 2
    printed = capsys.readouterr().out
    assert "yes" not in printed and "expected torch, diffusers, transformers, onnx, found them not installed" in printed


def test_doctor_names_the_precisions_that_run(monkeypatch, capsys):
    def without_bfloat16(name, precision):
        if precision == "bfloat16":
            raise BackendError(f"{name}: no such arithmetic")
        return SimpleNamespace(device=f"a processor for {name}")

    monkeypatch.setattr(doctor, "open_backend", without_bfloat16)
    assert main(["doctor"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()[1:] if line.split()[1] == "runs"}
    assert lines["openvino"].endswith("yes  a processor for openvino; precisions float32, int8")
    assert lines["onnxruntime"].endswith("; precisions float32, int8")


def test_no_engines(tmp_path, capsys):
    assert main(["inspect", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")
