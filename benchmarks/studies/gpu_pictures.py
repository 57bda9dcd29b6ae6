"""What the guard costs on a GPU: whole pictures by engines, unguarded, guarded on safe prompts and on triggering ones, in turns.

`python -m benchmarks.studies.gpu_pictures ENGINE_DIR` prints and writes benchmarks/results/gpu_pictures-NAME.json. An untrained
guard, of a model with random weights, is made to find everything safe or everything unsafe (`--forced-verdicts`).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.suite.figures import MS, of_mode
from benchmarks.suite.ratios import Spread, paired_ratio
from benchmarks.suite.sampling import GUARDED, MODES, UNGUARDED, Run, Workload, interleave, pictures_of
from benchmarks.suite.timing import CallLog
from engines.manifest import Manifest
from engines.store.atomic import replacing
from runtime import GuardedPipeline

ROOT = Path(__file__).resolve().parent.parent.parent


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("engine_dir", type=Path)
    result.add_argument("--name", help="of the result's file (default: the folder's)")
    result.add_argument("--num-inference-steps", type=int, default=50)
    result.add_argument("--batch-sizes", type=int, nargs="+", default=[1])
    result.add_argument("--rounds", type=int, default=10)
    result.add_argument("--scheduler", default="ddim")
    result.add_argument("--forced-verdicts", action="store_true")
    result.add_argument("--eager", action="store_true", help="without CUDA graphs")
    result.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results", help="folder (default: %(default)s)")
    return result


def cell(runs: list[Run], used_memory: int | None) -> dict[str, Any]:
    """Figures of one batch size."""
    of = {mode: of_mode(runs, mode) for mode in MODES}
    pictures = {mode: pictures_of(runs, mode) for mode in MODES}
    unguarded = [run.duration for run in of[UNGUARDED]]
    return {
        "images": len(runs[0].reports),
        "milliseconds": {mode: dataclasses.asdict(Spread.of([MS * run.duration for run in of[mode]])) for mode in MODES},
        "ratio_to_unguarded": {
            mode: dataclasses.asdict(paired_ratio([run.duration for run in of[mode]], unguarded))
            for mode in MODES
            if mode != UNGUARDED
        },
        "verdicts": {mode: sorted({report.verdict for run in of[mode] for report in run.reports}) for mode in MODES},
        "safe_pictures_equal_unguarded": pictures[GUARDED] == pictures[UNGUARDED],
        "pictures_repeat": all(len(found) == 1 for found in pictures.values()),
        "execution": dataclasses.asdict(runs[-1].execution),
        "device_memory_mib": None if used_memory is None else used_memory / 2**20,
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Load, then every batch size."""
    manifest = Manifest.read(arguments.engine_dir)[0]
    geometry = manifest.geometry
    started, cells = time.perf_counter(), []
    with GuardedPipeline(arguments.engine_dir, eager=arguments.eager) as pipeline:
        seconds, device = time.perf_counter() - started, pipeline.device
        for images in arguments.batch_sizes:
            size = geometry.default_height, geometry.default_width
            workload = Workload(images, arguments.num_inference_steps, *size, arguments.scheduler)
            runs = interleave(pipeline, CallLog(), workload, not arguments.forced_verdicts, arguments.rounds)
            cells.append(cell(runs, pipeline.used_device_memory()))
            print(json.dumps(cells[-1], indent=2), flush=True)
    return {
        "command": " ".join(["python -m benchmarks.studies.gpu_pictures", arguments.engine_dir.name, *sys.argv[2:]]),
        "device": device,
        "backend": manifest.backend,
        "precision": manifest.precision,
        "height": geometry.default_height,
        "width": geometry.default_width,
        "steps": arguments.num_inference_steps,
        "rounds": arguments.rounds,
        "load_seconds": seconds,
        "cells": cells,
    }


def main() -> None:
    """Measure and write."""
    arguments = parser().parse_args()
    name = arguments.name or arguments.engine_dir.absolute().name
    result = measure(arguments)
    with replacing(arguments.output / f"gpu_pictures-{name}.json") as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
