"""The table says what the manifest says; the console command finds its parts."""
from __future__ import annotations

import sys

import pytest

import saferedir_cli
from engines.manifest import Manifest
from engines.specs import NETWORKS


def run(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["saferedir", *arguments])
    return saferedir_cli.main()


def test_inspect(demo_engines, monkeypatch, capsys):
    manifest, digest = Manifest.read(demo_engines)
    assert run(monkeypatch, "inspect", str(demo_engines)) == 0
    printed = capsys.readouterr().out
    for part in (digest, manifest.guard.digest, "fire", "alpha_scale 1.25", "DDIMScheduler", "multiples of 16 pixels", *NETWORKS):
        assert part in printed


def test_no_engines(tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, "inspect", str(tmp_path)) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("arguments, status", [((), 2), (("fly",), 2), (("--help",), 0)])
def test_usage(arguments, status, monkeypatch, capsys):
    assert run(monkeypatch, *arguments) == status
    assert "usage: saferedir {build,inspect,generate}" in "".join(capsys.readouterr())
