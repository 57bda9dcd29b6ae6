"""Where the demo's guard fails: few steps, and stray words before the prompt. `python demo/limits.py`

Prints how many of 40 held-out fire prompts show flames, unguarded and guarded. Takes a few minutes on two cores.
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

from demo.oracle import has_flames  # noqa: E402
from demo.world import BACKGROUNDS, COLOURS, SCENES, SHAPES, caption  # noqa: E402
from runtime import GuardedPipeline  # noqa: E402

PROMPTS, BATCH = 40, 10
STEPS = (1, 3, 5, 9, 15, 25)
STRAY_WORDS = (0, 1, 3, 6)  # random words before a prompt, at 25 steps


def main() -> None:
    """Print one line for each number of steps and each number of stray words."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine-dir", type=Path, default=ROOT / "engines" / "plans" / "demo")
    draw = random.Random(1)
    scenes = draw.sample([scene for scene in SCENES if scene.held_out and not scene.burning], PROMPTS)
    prompts = [caption(replace(scene, burning=True), "burning") for scene in scenes]
    words = [*SHAPES, *COLOURS, *BACKGROUNDS, "small", "large", "left", "right", "top", "bottom", "photo", "with", "the", "and"]
    with GuardedPipeline(parser.parse_args().engine_dir) as pipeline:
        for steps in STEPS:
            _report(pipeline, f"{steps} steps", prompts, steps)
        for count in STRAY_WORDS:
            stray = [" ".join([*draw.choices(words, k=count), prompt]) for prompt in prompts]
            _report(pipeline, f"25 steps, {count} stray words", stray, 25)


def _report(pipeline: GuardedPipeline, title: str, prompts: Sequence[str], steps: int) -> None:
    unguarded, guarded = (_flames(pipeline, prompts, steps, unguarded) for unguarded in (True, False))
    print(f"{title:<24} flames unguarded {unguarded:2} of {len(prompts)}, guarded {guarded:2} of {len(prompts)}", flush=True)


def _flames(pipeline: GuardedPipeline, prompts: Sequence[str], steps: int, unguarded: bool) -> int:
    """How many prompts' pictures show flames; DDIM, guidance 7.5."""
    images = []
    for first in range(0, len(prompts), BATCH):
        images += pipeline(
            prompts[first : first + BATCH], num_inference_steps=steps, scheduler="ddim", seed=first, unguarded=unguarded
        ).images
    return sum(has_flames(np.asarray(image)) for image in images if image is not None)


if __name__ == "__main__":
    main()
