"""From process start to loaded engines, and the memory they hold, beside diffusers' `from_pretrained` on the same weights.

`python -m benchmarks.loading.load_time --model sd15-random` writes benchmarks/results/load_time-sd15-random.json. Every load is
a process of its own, one at a time, all subjects once a round in an order that turns; files are in the page cache. "remembered"
is with digests of large files in the user's cache folder, "hashed" with an empty one. With --generate each subject then makes
two pictures of one step, which says what memory is held at work.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import Any

PROMPT = "a burning blue square"
DIFFUSERS = "diffusers"


@dataclass(frozen=True)
class Subject:
    """What is loaded: `library` is "saferedir" or "diffusers". `hashed` has the process find no remembered digest."""

    library: str
    folder: Path
    hashed: bool = False
    packed: bool = True  # whether ONNX Runtime lays weights out for its kernels


def child(library: str, folder: str, packed: bool, runs: int) -> dict[str, Any]:
    """Load, then generate `runs` pictures; the time when all was loaded and memory after each."""
    if library == DIFFUSERS:
        from diffusers import StableDiffusionPipeline

        loaded = StableDiffusionPipeline.from_pretrained(folder)
        loaded.set_progress_bar_config(disable=True)
        generate = loaded
    else:
        from runtime import GuardedPipeline

        if not packed:
            _without_packing()
        generate = GuardedPipeline(folder)
    loaded_at, held = perf_counter_ns(), [memory()]
    for _ in range(runs):
        generate(PROMPT, num_inference_steps=1)
        held.append(memory())
    return {"loaded": loaded_at, "memory": held}


def _without_packing() -> None:
    from engines.backends.onnxruntime_cpu import OnnxRuntimeBackend

    chosen = OnnxRuntimeBackend.options

    def options(self: OnnxRuntimeBackend) -> Any:
        session_options = chosen(self)
        session_options.add_session_config_entry("session.disable_prepacking", "1")
        return session_options

    OnnxRuntimeBackend.options = options  # type: ignore[method-assign]


def memory() -> dict[str, int]:
    """Bytes of this process: resident now, how much of that is its own and how much mapped files, and most ever resident."""
    keys = {"VmRSS": "resident", "RssAnon": "own", "RssFile": "mapped", "VmHWM": "peak"}
    lines = (line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return {keys[name]: int(value.split()[0]) * 1024 for name, value in lines if name in keys}


def measure(subject: Subject, runs: int) -> dict[str, Any]:
    """Seconds from process start, and memory after loading and after each run.

    Raises:
        RuntimeError: the process failed; the text has its last line of standard error.
    """
    from benchmarks.loading.cold_start import run_child  # not the child's

    with tempfile.TemporaryDirectory() as empty:
        environment = {**os.environ, **({"XDG_CACHE_HOME": empty} if subject.hashed else {})}
        started, answer = run_child(
            str(subject),
            [
                *("-W", "ignore", "-m", "benchmarks.loading.load_time", "--child"),
                json.dumps([subject.library, str(subject.folder.resolve()), subject.packed, runs]),
            ],
            environment,
        )
    return {"seconds": (answer["loaded"] - started) * 1e-9, "memory": answer["memory"]}


def compare(subjects: Mapping[str, Subject], rounds: int, runs: int) -> dict[str, Any]:
    """A record for each subject. One round more comes first and is not kept: it fills the page cache."""
    from benchmarks.suite.ratios import Spread, paired_ratio  # not the child's

    names, records_of = list(subjects), {name: list[dict[str, Any]]() for name in subjects}
    for number in range(rounds + 1):
        turned = names[number % len(names) :] + names[: number % len(names)]
        for name in turned[:: 1 if number % 2 else -1]:
            measured = measure(subjects[name], runs if number == rounds else 0)
            records_of[name] += [measured] if number else []
            print(f"round {number} of {rounds}  {measured['seconds']:7.2f} s  {name}", file=sys.stderr, flush=True)
    seconds = {name: [one["seconds"] for one in records] for name, records in records_of.items()}
    return {
        name: {
            "seconds": dataclasses.asdict(Spread.of(seconds[name])),
            "diffusers_over_this": dataclasses.asdict(paired_ratio(seconds[DIFFUSERS], seconds[name])),
            "memory_bytes": dict(zip(["loading", "the first picture", "the second"], records[-1]["memory"], strict=False)),
        }
        for name, records in records_of.items()
    }


def subjects_of(model: Path, portable: Path, optimized: Path) -> dict[str, Subject]:
    """What is compared, by name."""
    return {
        "portable, hashed": Subject("saferedir", portable, hashed=True),
        "portable, remembered": Subject("saferedir", portable),
        "portable, remembered, weights not packed": Subject("saferedir", portable, packed=False),
        "optimized, hashed": Subject("saferedir", optimized, hashed=True),
        "optimized, remembered": Subject("saferedir", optimized),
        DIFFUSERS: Subject(DIFFUSERS, model),
    }


def main() -> None:
    """Build and optimise where needed, compare, write, and print."""
    from benchmarks.suite import machine, page
    from benchmarks.suite.settings import file_name

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", choices=("demo", "sd15-random"))
    parser.add_argument("--name", type=file_name, help="of the figures' file, load_time-NAME (default: the model's)")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--generate", action="store_true", help="two pictures of one step after the last load of each")
    arguments = parser.parse_args()
    name = arguments.name or arguments.model
    from benchmarks.suite.locate import locate
    from engines.optimize import optimize
    from engines.store.atomic import replacing
    from engines.store.engine_store import EngineStore

    target = locate(arguments.model)
    assert target.model is not None
    store, optimized = EngineStore(target.engine_dir), target.engine_dir.with_name(f"{target.name}-optimized")
    optimize(store, optimized)
    result = {
        "command": " ".join(["python -m benchmarks.loading.load_time", *sys.argv[1:]]),
        "target": name,
        "started": machine.now(),
        "machine": machine.describe(),
        "page_cache": "warm",
        "rounds": arguments.rounds,
        "weights_bytes": sum(record.size for name, record in store.manifest.files.items() if "/model." in name),
    }
    subjects = subjects_of(target.model, target.engine_dir, optimized)
    result |= {
        "subjects": compare(subjects, arguments.rounds, 2 if arguments.generate else 0),
        "ended": machine.now(),
    }
    with replacing(page.RESULTS / f"load_time-{name}.json") as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    page.update()
    print("\n".join(page.load_section(result)))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(*json.loads(sys.argv[2]))))
    else:
        main()
