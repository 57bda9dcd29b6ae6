"""The wheel, without the checkout: built, installed into a fresh environment, and used in another working directory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from engines import __version__
from export.build_command import DEMO_MODEL, DEMO_REDIRECTOR
from runtime.png import read_png

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("saferedir", "engines", "export", "runtime", "evaluation", "training")
FIRE = "a burning blue square on a grey background"


def pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that what earlier builds left in the checkout is not packed."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(
        ROOT, folder / "source", ignore=shutil.ignore_patterns(".*", "__pycache__", "build", "plans", "*.egg-info", "work")
    )
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(folder / "source"))
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """`bin` of an environment that has the wheel and borrows its dependencies from the one that runs the tests.

    Editable installs of that one are not borrowed: Python does not read .pth files of a folder that a .pth file names.
    """
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip("--python", str(python), "install", "--no-deps", "--no-index", str(wheel))
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "borrowed.pth").write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))
    return python.parent


@pytest.fixture
def run(environment, tmp_path):
    """Runs a program of the environment in a folder of its own."""

    def call(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "SAFEREDIR_HOME")}
        return subprocess.run([str(environment / program), *arguments], cwd=tmp_path, env=variables, capture_output=True, text=True)

    return call


def test_it_holds_every_package(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names} == {*PACKAGES, f"saferedir-{__version__}.dist-info"}
    modules = {path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    configs = {path.relative_to(ROOT).as_posix() for path in (ROOT / "export" / "sources" / "configs").rglob("*.json")}
    page = {path.relative_to(ROOT).as_posix() for path in (ROOT / "runtime" / "serving" / "page").iterdir()}
    marks = {f"{package}/py.typed" for package in PACKAGES}
    assert {name for name in names if ".dist-info/" not in name} == modules | configs | page | marks
    assert len(configs) == 8 and len(page) >= 3


def test_it_builds_and_generates(run, environment, tmp_path):
    assert run("saferedir", "--version").stdout == f"saferedir {__version__}\n"
    where = run("python", "-c", f"import {', '.join(PACKAGES)}; print({', '.join(f'{name}.__file__' for name in PACKAGES)})")
    assert all(path.startswith(str(environment.parent)) for path in where.stdout.split()), where

    model = shutil.copytree(DEMO_MODEL, tmp_path / "mine")
    built = run("saferedir", "build", "--model", "mine", "--redirector", str(DEMO_REDIRECTOR))
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "engines" / "plans" / model.name / "manifest.json").is_file()
    drawn = run("saferedir", "generate", FIRE, "--engine-dir", "engines/plans/mine", "--num-inference-steps", "8", "--seed", "7")
    assert drawn.returncode == 0 and "out.png" in drawn.stdout, drawn.stderr
    assert read_png(tmp_path / "out.png")["verdict"] == "redirected"


def test_the_demo_is_in_a_clone_only(run, tmp_path):
    found = run("saferedir", "build")
    assert found.returncode == 2 and found.stderr.count("\n") == 1
    assert "the demo's model comes with a clone of the repository only; pass --model and --redirector" in found.stderr
    assert not list(tmp_path.iterdir())
