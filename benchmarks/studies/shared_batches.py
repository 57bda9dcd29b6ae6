"""What sharing a batch does to an image's bits, and to the time that it takes.

    python -m benchmarks.studies.shared_batches ENGINE_DIR ...

For each folder of engines: how many pictures of batches equal single ones; whether an image's bits depend on its neighbours or its
place; processor time of an image by batch size, and of images of 20 and 50 steps in one batch and in batches of their own.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runtime import GuardedPipeline

PROMPTS = ("a burning blue square", "a small red star", "a flaming pink star at the top of a black background", "a yellow triangle")
SIZES = (2, 4)
OPTIONS: tuple[dict[str, Any], ...] = ({"num_inference_steps": 8}, {"num_inference_steps": 12, "scheduler": "DPM++ 2M Karras"})
ROUNDS = 5
Bits = tuple[bytes, str]  # a picture's, and every probability


def drawn(pipeline: GuardedPipeline, images: Sequence[int], **options: Any) -> list[Bits]:
    """Images by their number, in a batch of this order."""
    result = pipeline([PROMPTS[image] for image in images], seed=list(images), on_still_unsafe="deliver", **options)
    probabilities = [repr([guard.p_unsafe for guard in report.guards]) for report in result.reports]
    return [(np.asarray(image).tobytes(), each) for image, each in zip(result.images, probabilities, strict=True)]


def compare(pipeline: GuardedPipeline, size: int, **options: Any) -> str:
    """In words, over all orders of a batch's size."""
    alone = [drawn(pipeline, [image], **options)[0] for image in range(len(PROMPTS))]
    seen: list[set[Bits]] = [set() for _ in PROMPTS]
    equal, differences, images = 0, [0], 0
    for order in itertools.permutations(range(len(PROMPTS)), size):
        for image, found in zip(order, drawn(pipeline, order, **options), strict=True):
            one, other = (np.frombuffer(bits[0], np.uint8).astype(int) for bits in (found, alone[image]))
            differences.append(int(np.abs(one - other).max()))
            equal, images = equal + (found[0] == alone[image][0]), images + 1
            seen[image].add(found)
    apart = sum(len(bits) > 1 for bits in seen)
    return (
        f"batch {size}, {options}: {equal} of {images} pictures equal single ones, others within {max(differences)} grey levels; "
        f"{apart} of {len(PROMPTS)} images depend on neighbours or place"
    )


def seconds(pipeline: GuardedPipeline, steps: Sequence[int]) -> float:
    """Of the processor, for a batch of images of so many steps."""
    begun = time.process_time()
    pipeline([PROMPTS[1]] * len(steps), seed=0, num_inference_steps=list(steps))
    return time.process_time() - begun


def times(pipeline: GuardedPipeline) -> str:
    """In words, medians of rounds that take turns."""
    batches = {"1": [20], "2": [20] * 2, "4": [20] * 4, "50": [50] * 2, "mixed": [20, 50]}
    for steps in batches.values():
        seconds(pipeline, steps)
    rounds = [{name: seconds(pipeline, steps) for name, steps in batches.items()} for _ in range(ROUNDS)]
    median = {name: statistics.median(each[name] for each in rounds) for name in batches}
    own = (median["2"] + median["50"]) / 2
    sizes = ", ".join(f"{median[name] / len(batches[name]):.3f} s in batches of {name}" for name in ("1", "2", "4"))
    return f"an image of 20 steps: {sizes}; one of 20 and one of 50: {median['mixed']:.3f} s together, {own:.3f} s in own batches"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine_dir", nargs="+", type=Path)
    for folder in parser.parse_args().engine_dir:
        with GuardedPipeline(folder) as pipeline:
            print(f"{pipeline.manifest.backend}, {pipeline.manifest.precision}, {pipeline.device}", flush=True)
            for options in OPTIONS:
                for size in SIZES:
                    print(compare(pipeline, size, **options), flush=True)
            print(times(pipeline), flush=True)


if __name__ == "__main__":
    main()
