"""Two pictures on one machine's processors: one after the other, in one batch, or by two pipelines beside each other.

`python -m benchmarks.studies.two_at_once ENGINE_DIR [ENGINE_DIR …] --output FILE` measures each; all ways in turns, after one
round that is not measured. A pipeline of half the cores and one of all of them are made once. Pipelines beside each other run in
threads of one process: the backends leave Python's lock while they compute. Folders that take single images have no batch of two.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.suite.machine import describe
from benchmarks.suite.ratios import paired_ratio
from engines.manifest import Manifest
from runtime import GuardedPipeline

PROMPTS = ["a blue square on a grey background", "a small red star"]
FIRST = "one after the other"


def ways(folder: Path, options: dict[str, Any], stack: ExitStack, pool: ThreadPoolExecutor) -> dict[str, Callable[[], object]]:
    """Name → what draws both pictures."""
    half = max(1, (os.cpu_count() or 1) // 2)

    def opened(threads: int | None = None) -> GuardedPipeline:
        return stack.enter_context(GuardedPipeline(folder, threads=threads))

    whole, halves, wholes = opened(), [opened(half) for _ in PROMPTS], [opened() for _ in PROMPTS]

    def beside(pipelines: list[GuardedPipeline]) -> object:
        return list(pool.map(lambda pair: pair[0](pair[1], **options), zip(pipelines, PROMPTS, strict=True)))

    found: dict[str, Callable[[], object]] = {
        FIRST: lambda: [whole(prompt, **options) for prompt in PROMPTS],
        f"two pipelines, {half} thread(s) each": lambda: beside(halves),
        "two pipelines, every core each": lambda: beside(wholes),
    }
    span = Manifest.read(folder)[0].sizes.span("batch_size")
    if span is None or span.minimum <= len(PROMPTS) <= span.maximum:
        found["one batch"] = lambda: whole(PROMPTS, **options)
    return found


def measure(folder: Path, options: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Seconds of each way by round, and the ratio to the first way (`benchmarks.suite.ratios.Ratio`)."""
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(len(PROMPTS)))
        calls = ways(folder, options, stack, pool)
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for number in range(-1, rounds):
            for name in list(calls)[:: 1 if number % 2 else -1]:
                started = perf_counter()
                calls[name]()
                seconds[name] += [perf_counter() - started] if number >= 0 else []
    return {
        name: {"seconds": values, "ratio": dataclasses.asdict(paired_ratio(values, seconds[FIRST]))}
        for name, values in seconds.items()
    }


def main() -> None:
    """Print and write the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    options = {"num_inference_steps": arguments.steps, "seed": 0}
    result = {
        "steps": arguments.steps,
        "rounds": arguments.rounds,
        "machine": describe(),
        "engines": {
            f"{folder.name}: {manifest.backend}, {manifest.precision}": measure(folder, options, arguments.rounds)
            for folder in arguments.folders
            for manifest in (Manifest.read(folder)[0],)
        },
    }
    print(json.dumps(result["engines"], indent=2))
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
