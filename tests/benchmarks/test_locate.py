"""Which engines and weights a name stands for."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks.suite import locate
from benchmarks.suite.target import Target
from engines.errors import ManifestError
from export.build_command import DEMO_MODEL, DEMO_REDIRECTOR


def small_model(folder: Path) -> int:
    """In the place of the full-size model; counts how often it was written."""
    shutil.copytree(DEMO_MODEL, folder, dirs_exist_ok=True)
    shutil.copy(DEMO_REDIRECTOR, folder / "redirector.pt")
    with open(folder / "written", "a") as file:
        file.write("x")
    return 0


def test_random_weights_are_written_once_and_built_every_time(monkeypatch, tmp_path):
    built = []
    monkeypatch.setattr(locate, "write_model", small_model)
    monkeypatch.setattr(locate, "build", built.append)
    monkeypatch.setenv("SAFEREDIR_HOME", str(tmp_path))
    plans = tmp_path / "engines" / "plans"
    model = plans / "sd15-random-model"
    for _ in range(2):
        found = locate.locate("sd15-random")
        assert found == Target("sd15-random", plans / "sd15-random", model, model / "redirector.pt", trained=False)
    assert (model / "written").read_text() == "x"
    assert [(options.model, options.checkpoints[0].path, options.engine_dir) for options in built] == 2 * [
        (str(model), model / "redirector.pt", plans / "sd15-random")
    ]


def test_a_folder_of_engines_knows_its_weights(demo_engines, tmp_path):
    found = locate.locate(str(demo_engines), DEMO_REDIRECTOR)
    assert found == Target("demo", demo_engines, DEMO_MODEL, DEMO_REDIRECTOR, trained=False)
    moved = tmp_path / "moved"
    shutil.copytree(demo_engines, moved)
    manifest = moved / "manifest.json"
    manifest.write_text(manifest.read_text().replace(str(DEMO_MODEL), str(tmp_path / "gone")))
    assert locate.locate(str(moved)).model is None
    with pytest.raises(ManifestError, match="no engines here"):
        locate.locate(str(tmp_path / "nothing"))
