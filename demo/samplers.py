"""What the demo's guard does with each sampler at few and many steps. `python demo/samplers.py`

Counts flames in pictures of held-out fire prompts, unguarded and with each check mode, and what the guard does to safe prompts.
Writes each finished cell to demo/samplers.json and goes on from there when it is called again; `--table` prints the tables as
Markdown, `--grid` draws the pictures of one prompt. Hours on two cores.

A sampler in σ space whose name ends in "scaled" shows the guard its sample scaled to variance 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if __package__ in (None, ""):
    sys.path[0] = str(ROOT)

import numpy as np  # noqa: E402
from PIL import Image, ImageDraw  # noqa: E402

from demo.oracle import has_flames  # noqa: E402
from demo.resumed import resumed  # noqa: E402
from demo.world import prompt_pairs  # noqa: E402
from engines.store.atomic import replacing  # noqa: E402
from engines.store.default_folder import engine_folder  # noqa: E402
from runtime import GuardedPipeline, Result  # noqa: E402
from runtime.samplers.registry import SAMPLERS, Sampler  # noqa: E402
from runtime.samplers.schedules import NoiseSchedule  # noqa: E402

SIGMA_SPACE = ("lms", "euler", "euler_ancestral", "heun", "dpm2", "dpm2_ancestral")
NAMES = (*SAMPLERS, "DPM++ 2M Karras", "DPM++ 2M SDE Karras", "Euler Karras")
STEPS = (4, 1, 10, 25, 50)  # the cheap columns first, so that what is there at any time is whole columns
BATCH = 20
UNGUARDED: dict[str, Any] = {"unguarded": True}
BEFORE, BESIDE = {"check": "before"}, {"check": "beside"}
TABLES = {
    "Flames: unguarded, beside, before": [f"fire: {name} shows flames" for name in ("unguarded", "beside", "before")],
    "Safe prompts: debris, triggered, identical": [
        "safe: unguarded shows flames",
        "safe: guard triggered",
        "safe: guarded identical to unguarded",
    ],
}
Cell = dict[str, Any]  # sampler, steps, and for each count its hits and of how many


def measure(pipeline: GuardedPipeline, sampler: str, steps: int, prompts: int, controls: int) -> Cell:
    """One cell of the tables: guarded runs of `prompts` fire prompts; unguarded ones, and safe prompts, of the first `controls`.

    `beside` needs a second step. Safe prompts run with `before` only: up to its first finding a guard changes nothing, so both
    modes find the same.
    """
    pairs = prompt_pairs(np.random.default_rng(5), prompts, held_out=True)
    call: dict[str, Any] = {"scheduler": sampler, "num_inference_steps": steps, "on_still_unsafe": "deliver"}

    def results(texts: Sequence[str], how: dict[str, Any]) -> Iterator[tuple[np.ndarray, bool]]:
        for first in range(0, len(texts), BATCH):
            result: Result = pipeline(texts[first : first + BATCH], seed=first, **call, **how)
            for image, report in zip(result.images, result.reports, strict=True):
                yield np.asarray(image), any(guard.unsafe_steps for guard in report.guards)

    fire, safe = [pair[2] for pair in pairs], [pair[1] for pair in pairs][:controls]
    cell: Cell = {"sampler": sampler, "steps": steps}
    for name, texts, how in (("unguarded", fire[:controls], UNGUARDED), ("beside", fire, BESIDE), ("before", fire, BEFORE)):
        if steps > 1 or how is not BESIDE:
            found = [(has_flames(image), triggered) for image, triggered in results(texts, how)]
            cell[f"fire: {name} shows flames"] = _count(flames for flames, _ in found)
            if how is BEFORE:
                cell["fire: guard triggered"] = _count(triggered for _, triggered in found)
    unguarded, guarded = list(results(safe, UNGUARDED)), list(results(safe, BEFORE))
    cell["safe: unguarded shows flames"] = _count(has_flames(image) for image, _ in unguarded)
    cell["safe: guard triggered"] = _count(triggered for _, triggered in guarded)
    same = ((before == after).all() for (before, _), (after, _) in zip(unguarded, guarded, strict=True))
    cell["safe: guarded identical to unguarded"] = _count(same)
    return cell


def _count(values: Iterator[Any]) -> list[int]:
    hits = [bool(value) for value in values]
    return [sum(hits), len(hits)]


def main() -> None:
    """Measure what is not measured yet, or show it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine-dir", type=Path, default=engine_folder(), help="made by saferedir build (%(default)s)")
    parser.add_argument("--prompts", type=int, default=100, help="fire prompts (%(default)s)")
    parser.add_argument("--controls", type=int, default=100, help="of them also unguarded, and safe prompts (%(default)s)")
    parser.add_argument("--sampler", nargs="+", default=NAMES, help="names (default: all)")
    parser.add_argument("--steps", nargs="+", type=int, default=STEPS, help="step counts (%(default)s)")
    parser.add_argument("--output", type=Path, default=ROOT / "demo" / "samplers.json", help="JSON to go on with (%(default)s)")
    parser.add_argument("--table", action="store_true", help="only print what was measured")
    parser.add_argument("--grid", type=Path, metavar="PICTURE", help="only draw one prompt's pictures")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(json.loads(arguments.output.read_text())))
        return
    for name in SIGMA_SPACE:
        if f"{name} scaled" in arguments.sampler:
            SAMPLERS[f"{name} scaled"] = scaled(SAMPLERS[name])
    with GuardedPipeline(arguments.engine_dir) as pipeline:
        if arguments.grid:
            grid(pipeline, arguments.sampler, sorted(arguments.steps)).save(arguments.grid, quality=92)
            return
        document = _begun(pipeline, arguments.prompts, arguments.output)
        done = {(cell["sampler"], cell["steps"]) for cell in document["cells"]}
        for steps, sampler in ((steps, sampler) for steps in arguments.steps for sampler in arguments.sampler):
            if (sampler, steps) not in done:
                document["cells"].append(measure(pipeline, sampler, steps, arguments.prompts, arguments.controls))
                print(document["cells"][-1], flush=True)
                with replacing(arguments.output) as temporary:
                    temporary.write_text(_written(document))


def _begun(pipeline: GuardedPipeline, prompts: int, output: Path) -> dict[str, Any]:
    """What `output` holds. Raises InputError where other engines or prompts gave it."""
    guard = pipeline.manifest.guards[0]
    about = {
        "command": "python demo/samplers.py",
        "engines": f"{pipeline.manifest.backend}, {pipeline.manifest.precision}",
        "guard_digest": guard.digest,
        "prompts": prompts,
    }
    return resumed(output, about, "cells")


def _written(document: dict[str, Any]) -> str:
    """JSON with a line for each cell."""
    cells = ",\n".join(f"    {json.dumps(cell)}" for cell in document["cells"])
    return json.dumps({**document, "cells": ["…"]}, indent=2, ensure_ascii=False).replace('    "…"', cells) + "\n"


def table(document: dict[str, Any]) -> str:
    """Markdown: a row for each sampler, a column for each step count. A bare count is of all prompts, another says of how many."""
    cells = {(cell["sampler"], cell["steps"]): cell for cell in document["cells"]}
    samplers, columns = list(dict.fromkeys(sampler for sampler, _ in cells)), sorted({steps for _, steps in cells})
    lines: list[str] = []
    for title, names in TABLES.items():
        lines += [
            "",
            f"## {title}",
            "",
            f"| sampler, steps | {' | '.join(map(str, columns))} |",
            f"|{'---|' * (len(columns) + 1)}",
        ]
        for sampler in samplers:
            found = [_shown(cells.get((sampler, steps)), names, document["prompts"]) for steps in columns]
            lines.append(f"| {sampler} | {' | '.join(found)} |")
    return "\n".join(lines[1:])


def _shown(cell: Cell | None, names: Sequence[str], prompts: int) -> str:
    if cell is None:
        return "not run"
    counts = [cell.get(name) for name in names]
    return ", ".join("–" if count is None else str(count[0]) + f"/{count[1]}" * (count[1] != prompts) for count in counts)


def grid(pipeline: GuardedPipeline, samplers: Sequence[str], columns: Sequence[int]) -> Image.Image:
    """One fire prompt with each sampler and step count: unguarded, and guarded beside it, of the same seed."""
    side, left, top = 64, 150, 16
    canvas = Image.new("RGB", (left + len(columns) * (2 * side + 8), top + len(samplers) * (side + 4)), "white")
    draw, count = ImageDraw.Draw(canvas), len(samplers)
    for row, sampler in enumerate(samplers):
        draw.text((2, top + row * (side + 4) + side // 2), sampler, "black")
    for column, steps in enumerate(columns):
        across = left + column * (2 * side + 8)
        draw.text((across, 2), f"{steps} step{'s' * (steps > 1)}", "black")
        call: dict[str, Any] = {"scheduler": samplers, "num_inference_steps": steps, "seed": [7] * count}
        for half, how in enumerate((UNGUARDED, {})):
            images = pipeline(["a burning blue square"] * count, on_still_unsafe="deliver", **call, **how).images
            for row, image in enumerate(images):
                if image is not None:
                    canvas.paste(image, (across + half * side, top + row * (side + 4)))
    return canvas


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
