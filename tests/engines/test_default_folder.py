"""Where engines go when no folder is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.errors import InputError
from engines.store.default_folder import built_folder, engine_folder
from export.build_command import DEMO_MODEL, DEMO_REDIRECTOR, options
from saferedir.cli import parse


def test_working_directory_or_saferedir_home(monkeypatch, tmp_path):
    monkeypatch.delenv("SAFEREDIR_HOME", raising=False)
    assert engine_folder() == Path("engines", "plans", "demo")
    monkeypatch.setenv("SAFEREDIR_HOME", str(tmp_path))
    assert engine_folder("mine") == tmp_path / "engines" / "plans" / "mine"


@pytest.mark.parametrize(
    "model, name",
    [
        (None, "demo"),
        (".", "model"),
        (str(DEMO_MODEL) + "/", "model"),
        (str(DEMO_MODEL / "unet" / ".."), "model"),
        ("owner/name", "name"),
    ],
)
def test_named_after_the_model(monkeypatch, tmp_path, model, name):
    monkeypatch.setenv("SAFEREDIR_HOME", str(tmp_path))
    monkeypatch.chdir(DEMO_MODEL)
    given = [] if model is None else ["--model", model, "--redirector", str(DEMO_REDIRECTOR)]
    assert options(parse(["build", *given])).engine_dir == tmp_path / "engines" / "plans" / name


@pytest.mark.parametrize("model", ["/", "owner/..", "..", "owner/."])
def test_models_without_a_name(monkeypatch, tmp_path, model):
    monkeypatch.chdir("/")
    with pytest.raises(InputError, match="--engine-dir: expected, for a model whose folder is named"):
        options(parse(["build", "--model", model, "--unguarded"]))


def test_engines_that_are_looked_for(monkeypatch, tmp_path):
    """The demo's; the only ones where there is no demo; of several, none without a name."""

    def built(name: str) -> Path:
        (plans / name).mkdir(parents=True)
        (plans / name / "manifest.json").touch()
        return plans / name

    monkeypatch.setenv("SAFEREDIR_HOME", str(tmp_path))
    plans = tmp_path / "engines" / "plans"
    assert built_folder() == plans / "demo"
    built(".unfinished")
    mine = built("mine")
    assert built_folder() == mine
    built("yours")
    with pytest.raises(InputError, match="expected one, as .*demo is not built, found .*mine; .*yours; name one"):
        built_folder()
    (plans / "demo").mkdir()
    assert built_folder() == plans / "demo"  # what is wrong with it is said when it is opened
