"""What the demo's guard does with each sampler. `python demo/samplers.py`

Prints, for each sampler and number of steps, how many held-out fire prompts show flames unguarded and guarded, in how many safe
prompts' runs the guard finds nothing, and how many of their pictures have flame-coloured debris, for this small model falls
apart with some samplers at few steps. A sampler in σ space whose name ends in "scaled" shows the guard its sample scaled to
variance 1. Takes some ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if __package__ in (None, ""):
    sys.path[0] = str(ROOT)

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from demo.oracle import has_flames  # noqa: E402
from demo.world import SCENES, caption  # noqa: E402
from runtime import GuardedPipeline, ImageReport  # noqa: E402
from runtime.samplers.registry import SAMPLERS, Sampler  # noqa: E402
from runtime.samplers.schedules import NoiseSchedule  # noqa: E402

SIGMA_SPACE = ("lms", "euler", "euler_ancestral", "heun", "dpm2", "dpm2_ancestral")
NAMES = (*SAMPLERS, "DPM++ 2M Karras", "DPM++ 2M SDE Karras", "Euler Karras")
STEPS, BATCH = (4, 10, 25), 10


def main() -> None:
    """Print one line for each sampler."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine-dir", type=Path, default=ROOT / "engines" / "plans" / "demo")
    parser.add_argument("--prompts", type=int, default=20, help="fire prompts, and safe ones (%(default)s)")
    parser.add_argument("--sampler", nargs="*", help="names (default: all)")
    arguments = parser.parse_args()
    for name in SIGMA_SPACE:
        SAMPLERS[f"{name} scaled"] = scaled(SAMPLERS[name])
    scenes = random.Random(1).sample([scene for scene in SCENES if scene.held_out and not scene.burning], arguments.prompts)
    safe = [caption(scene, "") for scene in scenes]
    fire = [caption(replace(scene, burning=True), "burning") for scene in scenes]
    print(f"flames unguarded / guarded, safe runs left alone, safe pictures with debris, each of {arguments.prompts}; guidance 7.5")
    with GuardedPipeline(arguments.engine_dir) as pipeline:
        for name in arguments.sampler or (*NAMES, *(f"{name} scaled" for name in SIGMA_SPACE)):
            cells = [f"{steps}: {_cell(pipeline, name, steps, fire, safe)}" for steps in STEPS]
            print(f"{name:<24}", *cells, sep=" | ", flush=True)


def _cell(pipeline: GuardedPipeline, name: str, steps: int, fire: Sequence[str], safe: Sequence[str]) -> str:
    unguarded, guarded = (_results(pipeline, fire, name, steps, unguarded) for unguarded in (True, False))
    burning = [sum(has_flames(np.asarray(image)) for image, _ in results) for results in (unguarded, guarded)]
    left = _results(pipeline, safe, name, steps, False)
    debris = sum(has_flames(np.asarray(image)) for image, _ in left)
    return f"{burning[0]:2} / {burning[1]:2}, {sum(report.verdict == 'safe' for _, report in left):2}, {debris:2}"


def _results(
    pipeline: GuardedPipeline, prompts: Sequence[str], name: str, steps: int, unguarded: bool
) -> list[tuple[Image.Image | None, ImageReport]]:
    pairs: list[tuple[Image.Image | None, ImageReport]] = []
    for first in range(0, len(prompts), BATCH):
        result = pipeline(
            prompts[first : first + BATCH],
            num_inference_steps=steps,
            scheduler=name,
            seed=first,
            unguarded=unguarded,
            on_still_unsafe="deliver",
        )
        pairs += zip(result.images, result.reports, strict=True)
    return pairs


def scaled(row: Sampler) -> Sampler:
    """The same sampler with its sample kept as x/√(σ² + 1), which is the model's input; pictures do not change."""

    def solve(steps: int, schedule: NoiseSchedule) -> tuple[np.ndarray, np.ndarray, float, float]:
        timesteps, matrices, init_noise_sigma, first = row.solve(steps, schedule)  # type: ignore[misc]
        scale = first
        for matrix in matrices:
            matrix[:, 0] /= scale
            scale = np.abs(matrix[-1]).sum() / np.abs(matrix[0]).sum()
            matrix[0] *= scale
        return timesteps, matrices, init_noise_sigma * first, 1.0

    return Sampler(f"{row.class_name} scaled", solve, row.options)


if __name__ == "__main__":
    main()
