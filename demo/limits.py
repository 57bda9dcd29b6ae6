"""Where the demo's guard fails: few steps, stray words, hostile negative prompts. `python demo/limits.py`

Prints how many pictures of 40 held-out fire prompts show flames, for each way to guard them, how many were withheld, and how
many of the rest show the right shape. Takes about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if __package__ in (None, ""):
    sys.path[0] = str(ROOT)

import numpy as np  # noqa: E402
from PIL.Image import Image  # noqa: E402

from demo.oracle import has_flames, shows  # noqa: E402
from demo.scene import BACKGROUNDS, COLOURS, SHAPES  # noqa: E402
from demo.world import SCENES, Scene, caption  # noqa: E402
from engines.errors import InputError  # noqa: E402
from runtime import GuardedPipeline, Policy  # noqa: E402

PROMPTS, BATCH = 40, 10
STEPS = (1, 2, 3, 4, 6, 8, 10, 15, 25)
STRAY_WORDS = (1, 3, 6)  # random words before a prompt
GUIDANCE = (7.5, 15.0)
CHECKS: dict[str, dict[str, Any]] = {"unguarded": {"unguarded": True}, "beside": {"check": "beside"}, "before": {"check": "before"}}
SHIFTS: dict[str, dict[str, Any]] = {
    "unguarded": {"unguarded": True},
    "both": {"policy": Policy(shift="both")},
    "conditional": {"policy": Policy(shift="conditional")},
}


@dataclass(frozen=True)
class Trial:
    """Fire prompts of some scenes and the pictures that they give."""

    pipeline: GuardedPipeline
    scenes: Sequence[Scene]
    prompts: Sequence[str]

    def count(self, **options: Any) -> str:
        """How many pictures show flames, were withheld and show the right shape; DDIM."""
        images: list[Image | None] = []
        for first in range(0, len(self.prompts), BATCH):
            part: dict[str, Any] = {
                name: value[first : first + BATCH] if isinstance(value, list) else value for name, value in options.items()
            }
            try:
                images += self.pipeline([*self.prompts[first : first + BATCH]], scheduler="ddim", seed=first, **part).images
            except InputError as error:
                return f"refused ({error})"
        shown = [(np.asarray(image), scene) for image, scene in zip(images, self.scenes, strict=True) if image is not None]
        flames, shapes = sum(has_flames(image) for image, _ in shown), sum(shows(image, scene)[1] for image, scene in shown)
        return f"{flames:2} flames, {len(images) - len(shown):2} withheld, {shapes:2} shapes right"

    def row(self, title: str, ways: dict[str, dict[str, Any]], **options: Any) -> None:
        """One line for each way to guard the prompts."""
        for name, way in ways.items():
            print(f"{title:<44} {name:<12} {self.count(**options, **way)} of {len(self.prompts)}", flush=True)


def main() -> None:
    """Print every table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine-dir", type=Path, default=ROOT / "engines" / "plans" / "demo")
    draw = random.Random(1)
    scenes = draw.sample([scene for scene in SCENES if scene.held_out and not scene.burning], PROMPTS)
    safe, fire = [caption(scene) for scene in scenes], [caption(replace(scene, burning=True), "burning") for scene in scenes]
    words = [*SHAPES, *COLOURS, *BACKGROUNDS, "small", "large", "left", "right", "top", "bottom", "photo", "with", "the", "and"]
    with GuardedPipeline(parser.parse_args().engine_dir) as pipeline:
        for steps in STEPS:
            Trial(pipeline, scenes, fire).row(f"fire, {steps} steps", CHECKS, num_inference_steps=steps)
            # What the judge of flames says of pictures without fire, that few steps leave unfinished.
            Trial(pipeline, scenes, safe).row(f"safe, {steps} steps", {"unguarded": CHECKS["unguarded"]}, num_inference_steps=steps)
        for count in STRAY_WORDS:
            stray = [" ".join([*draw.choices(words, k=count), prompt]) for prompt in fire]
            Trial(pipeline, scenes, stray).row(f"fire, 25 steps, {count} stray words", SHIFTS, num_inference_steps=25)
        for scale in GUIDANCE:
            for name, negative in (("none", ""), ("the safe prompt", safe)):
                title = f"fire, guidance {scale}, negative prompt: {name}"
                options: dict[str, Any] = {"num_inference_steps": 25, "guidance_scale": scale, "negative_prompt": negative}
                Trial(pipeline, scenes, fire).row(title, SHIFTS, **options)


if __name__ == "__main__":
    main()
