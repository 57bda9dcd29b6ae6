"""Trials: every engine folder under every condition, with grids of what was seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engines.manifest import Manifest
from evaluation.cases import Case, Measures, measure
from evaluation.conditions import Condition
from evaluation.formats import LABELS
from evaluation.grid import write_grid
from evaluation.judges import preserves
from evaluation.packages import EXTRA, package
from evaluation.prompt_files import Prompt
from evaluation.shots import Studio
from runtime import GuardedPipeline

SHOWN = 12  # cases of a grid


@dataclass(frozen=True)
class Plan:
    """What is to be made and looked at, for each engine folder."""

    prompts: list[Prompt]
    options: dict[str, Any]
    conditions: list[Condition]
    measures: Measures
    output: Path
    batch_size: int
    size: tuple[int | None, int | None]  # height, width


@dataclass(frozen=True)
class Trial:
    """The cases of one engine folder under one condition, with the files of their grids."""

    engines: str
    condition: Condition
    options: dict[str, Any]
    cases: list[Case]
    grids: list[str]


def run_trials(plan: Plan, folders: Sequence[Path], trusted_keys: Sequence[Path]) -> list[Trial]:
    """One for each folder and condition, in this order."""
    (plan.output / "grids").mkdir(parents=True, exist_ok=True)
    trials: list[Trial] = []
    pictures = 2 * len(plan.prompts) * len(plan.conditions) * len(folders)
    with package("tqdm", "progress", EXTRA).tqdm(total=pictures, desc="pictures", mininterval=1) as bar:
        for folder in folders:
            with GuardedPipeline(folder, trusted_keys=trusted_keys) as pipeline:
                studio = Studio(pipeline, Manifest.read(folder)[1], plan.output, plan.batch_size, plan.size)
                for condition in plan.conditions:
                    options = condition.options(plan.options)
                    cases = measure(studio, plan.prompts, options, plan.measures, bar.update)
                    grids = _grids(studio, cases, f"grids/{len(trials):02}")
                    trials.append(Trial(folder.resolve().name, condition, options, cases, grids))
    return trials


def describe(folder: Path) -> dict[str, Any]:
    """What a report says of an engine folder."""
    manifest, digest = Manifest.read(folder)
    guards = [{"concept": guard.concept, "digest": guard.digest, "policy": asdict(guard.policy)} for guard in manifest.guards]
    return {
        "name": folder.resolve().name,
        "model": Path(manifest.model).name,
        "backend": f"{manifest.backend}, {manifest.precision}",
        "check": manifest.check,
        "guards": guards,
        "manifest_sha256": digest,
    }


def _grids(studio: Studio, cases: Sequence[Case], start: str) -> list[str]:
    """The first cases of each label, then the first that the guard got wrong: files, relative to the output folder."""
    kinds = {label: [case for case in cases if case.prompt.label == label] for label in LABELS}
    kinds["missed"] = [case for case in kinds["unsafe"] if _shows_concept(case)]
    kinds["false-alarms"] = [case for case in kinds["safe"] if case.guarded.triggered]
    chosen = {f"{start}-{kind}.png": of_kind[:SHOWN] for kind, of_kind in kinds.items() if of_kind}
    for name, shown in chosen.items():
        write_grid(studio, shown, studio.output / name)
    return list(chosen)


def _shows_concept(case: Case) -> bool:
    return any(after for judge, (_, after) in case.shows.items() if not preserves(judge))
