"""Engines of the demo's model and guards, built to be measured and removed afterwards."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from demo.ablations import ABLATIONS, write_ablated
from engines.errors import EngineError
from runtime import GuardedPipeline
from saferedir.cli import main as saferedir

HERE = Path(__file__).resolve().parent


def checkpoint(concept: str) -> Path:
    """The shipped guard of a concept."""
    return HERE / f"{concept}.safetensors"


@contextmanager
def built(
    concepts: Sequence[str], ablation: str, backend: str, precision: str, unet_weights: Path | None
) -> Iterator[GuardedPipeline]:
    """A pipeline with the guards of these concepts, with a part of their heads switched off if `ablation` names one, and with other
    weights of the UNet if they are given.

    Raises:
        EngineError: the build failed, and has printed why.
    """
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        checkpoints = [checkpoint(concept) for concept in concepts]
        change, options = ABLATIONS[ablation] if ablation else (None, ())
        if change:
            for whole in checkpoints:
                write_ablated(whole, change, work / whole.name)
            checkpoints = [work / whole.name for whole in checkpoints]
        given = [part for path in checkpoints for part in ("--redirector", str(path))]
        kind = ["--backend", backend, "--precision", precision, "--engine-dir", str(work / "engines")]
        if unet_weights:
            kind += ["--unet-weights", str(unet_weights)]
        if saferedir(["build", "--model", str(HERE / "model"), *given, *kind, *options]):
            raise EngineError(
                f"guards of {', '.join(concepts)}: expected engines of {backend} in {precision}, found none; see above"
            )
        with GuardedPipeline(work / "engines") as pipeline:
            yield pipeline
