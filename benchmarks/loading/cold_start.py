"""From process start to the first image, the peak of host memory, and what a GPU's memory holds, each in a process of its own.

`measure` runs this module as the process; it imports what a deployment imports and nothing else.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter_ns
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
PHASES = ("imports", "load", "first image", "second image")


def child(engine_dir: str, prompts: list[str], options: dict[str, Any]) -> dict[str, Any]:
    """After each phase: nanoseconds of the machine-wide monotonic clock, peak resident bytes, and bytes in use on a GPU."""
    from benchmarks.suite.machine import peak_memory_bytes
    from runtime import GuardedPipeline

    times, memory = [perf_counter_ns()], [peak_memory_bytes()]
    device: list[int | None] = []

    def note() -> None:
        times.append(perf_counter_ns())
        memory.append(peak_memory_bytes())
        device.append(pipeline.used_device_memory())

    with GuardedPipeline(engine_dir, unguarded=options.get("unguarded", False)) as pipeline:
        note()
        for _ in range(2):
            pipeline(prompts, **options)
            note()
    return {"times": times, "memory": memory, "device_memory": device}


def run_child(what: str, arguments: list[str], environment: Mapping[str, str] | None = None) -> tuple[int, dict[str, Any]]:
    """Run Python in the repository's root, where `-m` finds the benchmarks.

    Returns when the process started, in nanoseconds of the machine-wide monotonic clock, and the JSON on its last line.

    Raises:
        RuntimeError: the process failed; the text has its last line of standard error.
    """
    started = perf_counter_ns()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"{what}: the process failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return started, json.loads(done.stdout.splitlines()[-1])


def measure(engine_dir: Path, prompts: list[str], options: dict[str, Any]) -> dict[str, Any]:
    """Seconds of each phase from process start, peak resident bytes after it, and bytes in use on a GPU, None on a CPU.

    Raises:
        RuntimeError: the process failed; the text has its last line of standard error.
    """
    arguments = ["-m", "benchmarks.loading.cold_start", str(engine_dir.resolve()), json.dumps(prompts), json.dumps(options)]
    started, answer = run_child("cold start", arguments)
    lengths = [(end - start) * 1e-9 for start, end in zip([started, *answer["times"]], answer["times"], strict=False)]
    return {
        "seconds": dict(zip(PHASES, lengths, strict=True)),
        "to_first_image": sum(lengths[:3]),
        "peak_memory_bytes": dict(zip(PHASES, answer["memory"], strict=True)),
        "device_memory_bytes": dict(zip(PHASES[1:], answer["device_memory"], strict=True)),
    }


def compare(
    engine_dir: Path, calls: Mapping[str, tuple[list[str], dict[str, Any]]], count: int, tick: Callable[[], object]
) -> list[dict[str, Any]]:
    """A record for each name in `calls` (prompts and options): `count` processes of each, in turns.

    One more of each comes first and is not kept: it fills the page cache. `tick` is called after every process.
    """
    from benchmarks.suite.ratios import Spread  # not the child's

    def spread(values: list[float]) -> dict[str, float]:
        return dataclasses.asdict(Spread.of(values))

    records_of: dict[str, list[dict[str, Any]]] = {name: [] for name in calls}
    for number in range(-1, count) if count else ():
        for name in list(calls)[:: 1 if number % 2 else -1]:
            measured = measure(engine_dir, *calls[name])
            records_of[name] += [measured] if number >= 0 else []
            tick()

    def device(records: list[dict[str, Any]]) -> dict[str, int | None]:
        used = {phase: [one["device_memory_bytes"][phase] for one in records] for phase in PHASES[1:]}
        return {phase: None if None in values else max(values) for phase, values in used.items()}

    return [
        {
            "mode": name,
            "processes": count,
            "page_cache": "warm",
            "to_first_image_seconds": spread([one["to_first_image"] for one in records]),
            "seconds": {phase: spread([one["seconds"][phase] for one in records]) for phase in PHASES},
            "peak_memory_bytes": {phase: max(one["peak_memory_bytes"][phase] for one in records) for phase in PHASES},
            "device_memory_bytes": device(records),
        }
        for name, records in records_of.items()
        if records
    ]


if __name__ == "__main__":
    print(json.dumps(child(sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3]))))
