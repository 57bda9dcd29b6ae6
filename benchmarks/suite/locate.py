"""Finds the target that a name stands for, and builds it where that is needed."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.studies.export_full_size import write_model
from benchmarks.suite.target import Target
from engines.errors import InputError
from engines.manifest import Manifest
from engines.store.default_folder import engine_folder
from export.build import build
from export.build_command import DEMO_MODEL, DEMO_REDIRECTOR, options
from export.sources.locate import find_model
from saferedir.cli import parse

NAMED = ("demo", "sd15-random")


def locate(name: str, redirector: Path | None = None) -> Target:
    """The demo or Stable Diffusion 1.5's shape with random weights, built where needed; or a folder of engines.

    Raises:
        InputError, ManifestError: no such engines; BuildError and the like from a build.
    """
    if name == "demo":
        build(options(parse(["build", "--engine-dir", str(engine_folder(name))])))
        return Target(name, engine_folder(name), DEMO_MODEL, DEMO_REDIRECTOR, trained=True)
    if name == "sd15-random":
        model = engine_folder(f"{name}-model")
        if not (model / "redirector.pt").is_file():  # the last file that is written
            model.mkdir(parents=True, exist_ok=True)
            # In a process of its own: the weights would count in this one's memory.
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as writer:
                writer.submit(write_model, model).result()
        arguments = ["--model", str(model), "--redirector", str(model / "redirector.pt"), "--engine-dir", str(engine_folder(name))]
        build(options(parse(["build", *arguments])))
        return Target(name, engine_folder(name), model, model / "redirector.pt", trained=False)
    folder = Path(name)
    manifest = Manifest.read(folder)[0]
    try:
        model = find_model(manifest.model).folder
    except InputError:
        return Target(folder.absolute().name, folder, None, redirector, trained=False)
    return Target(folder.absolute().name, folder, model, redirector, trained=False)
