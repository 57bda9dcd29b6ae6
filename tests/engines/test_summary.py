"""The table says what the manifest says; the console command finds its parts."""

from __future__ import annotations

import sys

import pytest

import saferedir.cli
from engines import doctor
from engines.backends.registry import BACKENDS
from engines.errors import BackendError
from engines.manifest import Manifest
from engines.networks import NETWORKS


def run(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["saferedir", *arguments])
    return saferedir.cli.main()


def test_inspect(demo_engines, monkeypatch, capsys):
    manifest, digest = Manifest.read(demo_engines)
    assert run(monkeypatch, "inspect", str(demo_engines)) == 0
    printed = capsys.readouterr().out
    for part in (digest, manifest.guard.digest, "fire", "alpha_scale 1.25", "DDIMScheduler", "multiples of 16 pixels", *NETWORKS):
        assert part in printed


def test_doctor(monkeypatch, capsys):
    assert run(monkeypatch, "doctor") == 0
    lines = capsys.readouterr().out.splitlines()
    found = {tuple(line.split()[:3]): line for line in lines[1:]}
    assert {backend for backend, _, _ in found} == set(BACKENDS)
    assert ("onnxruntime", "runs", "yes") in found and ("onnxruntime", "builds", "yes") in found
    for (backend, verb, answer), line in found.items():
        assert answer == "yes" or len(line.split()) > 4, f"{backend} {verb}: no reason"


def test_doctor_without_any_library(monkeypatch, capsys):
    def broken(name):
        raise BackendError(f"{name} is not installed")

    monkeypatch.setattr(doctor, "open_backend", broken)
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    assert run(monkeypatch, "doctor") == 2
    printed = capsys.readouterr().out
    assert "yes" not in printed and "expected torch, diffusers, transformers, onnx, found them not installed" in printed


def test_no_engines(tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, "inspect", str(tmp_path)) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("arguments, status", [((), 2), (("fly",), 2), (("--help",), 0)])
def test_usage(arguments, status, monkeypatch, capsys):
    assert run(monkeypatch, *arguments) == status
    assert "usage: saferedir {build,inspect,doctor,verify,optimize,generate}" in "".join(capsys.readouterr())
