"""optimum's ONNX Runtime pipeline as a peer: the same weights, exported by optimum."""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers.catalog import Generate
from benchmarks.peers.diffusers_peers import run
from benchmarks.suite.target import Target


def export(target: Target, scratch: Path) -> None:
    """Write optimum's ONNX files.

    Raises:
        FileNotFoundError: the target's weights are not known.
    """
    from optimum.onnxruntime import ORTStableDiffusionPipeline

    if target.model is None:
        raise FileNotFoundError("the model that the engines were built from is not here")
    pipeline = ORTStableDiffusionPipeline.from_pretrained(str(target.model), export=True, safety_checker=None)  # takes no Path
    pipeline.save_pretrained(scratch)


def onnxruntime_pipeline(target: Target, scratch: Path) -> Generate:
    """The pipeline on what `export` wrote, with optimum's own session options."""
    from optimum.onnxruntime import ORTStableDiffusionPipeline

    pipeline = ORTStableDiffusionPipeline.from_pretrained(str(scratch), safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    return lambda work: run(pipeline, work)
