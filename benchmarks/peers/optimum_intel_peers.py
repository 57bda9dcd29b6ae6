"""optimum-intel's OpenVINO pipeline as a peer, and the files that it and OpenVINO GenAI read."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from benchmarks.peers.catalog import Generate, Work
from benchmarks.peers.diffusers_peers import run
from benchmarks.suite.target import Target

# What int8 is calibrated on: the packages' own choice is a download.
CALIBRATION_PROMPTS = [
    f"a {size} {colour} {shape}" for size in ("small", "large") for colour in ("red", "blue") for shape in ("circle", "star")
]


def export(target: Target, scratch: Path) -> None:
    """Write OpenVINO's files in float32, and the tokenizer that OpenVINO GenAI needs.

    Raises:
        FileNotFoundError: the target's weights are not known.
    """
    _export(target, scratch)


def export_int8(target: Target, scratch: Path) -> None:
    """The same with int8 weights, and int8 activations in the UNet.

    Raises:
        FileNotFoundError: the target's weights are not known.
    """
    from optimum.intel import OVQuantizationConfig

    _export(target, scratch, OVQuantizationConfig(bits=8, dataset=CALIBRATION_PROMPTS, num_samples=len(CALIBRATION_PROMPTS)))


def _export(target: Target, scratch: Path, quantization: Any = None) -> None:
    from optimum.exporters.openvino.convert import export_tokenizer
    from optimum.intel import OVStableDiffusionPipeline

    if target.model is None:
        raise FileNotFoundError("the model that the engines were built from is not here")
    pipeline = OVStableDiffusionPipeline.from_pretrained(
        str(target.model), export=True, safety_checker=None, load_in_8bit=False, quantization_config=quantization
    )
    pipeline.save_pretrained(scratch)
    export_tokenizer(pipeline.tokenizer, scratch / "tokenizer")


def float32(target: Target, scratch: Path) -> Generate:
    """Computes in float32."""
    return _pipeline(scratch, "f32")


def bfloat16(target: Target, scratch: Path) -> Generate:
    """Computes in bfloat16 what is not int8 in the files."""
    return _pipeline(scratch, "bf16")


def _pipeline(folder: Path, precision: str) -> Generate:
    """Compiled for the shape of its first work, as its documentation advises; another shape compiles again."""
    from optimum.intel import OVStableDiffusionPipeline

    pipeline = OVStableDiffusionPipeline.from_pretrained(
        folder, safety_checker=None, compile=False, ov_config={"INFERENCE_PRECISION_HINT": precision}
    )
    pipeline.set_progress_bar_config(disable=True)

    @lru_cache(maxsize=1)
    def compile_for(images: int, height: int, width: int) -> None:
        pipeline.reshape(images, height, width, num_images_per_prompt=1)
        pipeline.compile()

    def generate(work: Work) -> Any:
        compile_for(len(work.prompts), work.height, work.width)
        return run(pipeline, work)

    return generate
