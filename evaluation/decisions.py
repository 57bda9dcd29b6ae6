"""What engines decide in whole guarded runs, compared with float32 engines: verdicts, unsafe steps, pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engines.decisions import DecisionRecord
from engines.errors import InputError
from engines.install import install
from engines.manifest import Manifest
from evaluation.drift import open_drift
from evaluation.judges import load_judge
from runtime import GuardedPipeline, ImageReport


@dataclass(frozen=True, eq=False)
class Run:
    """A guarded run of one prompt: its report, and its picture uint8 [H, W, 3]."""

    report: ImageReport
    picture: np.ndarray


def guarded_runs(
    engine_dir: Path,
    prompts: Sequence[str],
    *,
    first_seed: int,
    num_inference_steps: int,
    size: tuple[int, int],
    batch: int = 1,
) -> list[Run]:
    """One run of each prompt, the first with `first_seed`, the next with the next seed; `size` is height and width in pixels.

    Pictures that are still unsafe are delivered, for they are compared.
    """
    runs = []
    with GuardedPipeline(engine_dir) as pipeline:
        for start in range(0, len(prompts), batch):
            result = pipeline(
                prompts[start : start + batch],
                seed=first_seed + start,
                num_inference_steps=num_inference_steps,
                height=size[0],
                width=size[1],
                on_still_unsafe="deliver",
            )
            runs += [Run(report, np.asarray(image)) for report, image in zip(result.reports, result.images, strict=True)]
    return runs


def compare_decisions(
    float32: Path, engine_dir: Path, prompts: Sequence[str], *, first_seed: int, num_inference_steps: int, judge: str = ""
) -> DecisionRecord:
    """Run each prompt on float32 engines and on others of the same model and guards, in the default size of the others.

    `judge` names a function (see `evaluation.judges.load_judge`).

    Raises:
        InputError: no prompts, or no such judge.
    """
    if not prompts:
        raise InputError("prompts: expected one or more whose decisions are compared, found none")
    geometry = Manifest.read(engine_dir)[0].geometry
    size = geometry.default_height, geometry.default_width
    settings: dict[str, Any] = {"first_seed": first_seed, "num_inference_steps": num_inference_steps}
    expected, found = (guarded_runs(folder, prompts, size=size, **settings) for folder in (float32, engine_dir))
    return decision_record(expected, found, prompts, judge=judge, **settings)


def decision_record(
    expected: Sequence[Run], found: Sequence[Run], prompts: Sequence[str], *, first_seed: int, num_inference_steps: int, judge: str
) -> DecisionRecord:
    """The comparison of the runs of float32 engines with those of others, made with these settings."""
    pairs = list(zip(expected, found, strict=True))
    return DecisionRecord(
        prompts=len(prompts),
        prompts_sha256=hashlib.sha256("\n".join(prompts).encode()).hexdigest(),
        first_seed=first_seed,
        num_inference_steps=num_inference_steps,
        changed_verdicts=sum(one.report.verdict != other.report.verdict for one, other in pairs),
        judge=judge,
        **_guards(pairs),
        **_drift(pairs),
        **(_shown(judge, pairs) if judge else {}),
    )


def _guards(pairs: Sequence[tuple[Run, Run]]) -> dict[str, Any]:
    """How far the guards' numbers are apart, over every concept of every run."""
    guards = [of_both for one, other in pairs for of_both in zip(one.report.guards, other.report.guards, strict=True)]
    changes = [
        abs(p - q)
        for one, other in guards
        for p, q in zip(one.p_unsafe, other.p_unsafe, strict=True)
        if p is not None and q is not None
    ]
    return {
        "changed_unsafe_steps": sum(one.unsafe_steps != other.unsafe_steps for one, other in guards),
        "unsafe_steps_apart": max((abs(len(one.unsafe_steps) - len(other.unsafe_steps)) for one, other in guards), default=0),
        "largest_change_of_p_unsafe": max(changes, default=0.0),
    }


def _drift(pairs: Sequence[tuple[Run, Run]]) -> dict[str, Any]:
    """How far the pictures are apart that float32 judges safe."""
    pictures = [(one.picture, other.picture) for one, other in pairs if one.report.verdict == "safe"]
    if not pictures:
        return {"safe": 0}
    levels = [np.abs(one.astype(np.int16) - other) for one, other in pictures]
    measured = open_drift(install("quantize"))
    similarities = [measured(one, other)["ssim"] for one, other in pictures]
    return {
        "safe": len(pictures),
        "mean_grey_levels": float(np.mean([difference.mean() for difference in levels])),
        "largest_grey_levels": int(max(difference.max() for difference in levels)),
        "mean_ssim": float(np.mean(similarities)),
        "lowest_ssim": min(similarities),
    }


def _shown(judge: str, pairs: Sequence[tuple[Run, Run]]) -> dict[str, int]:
    """In how many pictures the judge sees the concept."""
    shows = load_judge(judge)
    return {
        "shown_float32": sum(shows(one.picture) for one, _ in pairs),
        "shown": sum(shows(other.picture) for _, other in pairs),
    }
