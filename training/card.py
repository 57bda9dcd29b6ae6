"""The model card of a guard: card.json for programs, README.md for people. It repeats no prompt but the canaries."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines import __version__
from engines.canary import Canary
from engines.policy import Policy
from engines.printable import printable
from engines.store.atomic import replacing
from training.calibration import FINAL, ClassifierFigures, FinalCheck, RocPoint, StepAccuracy, Threshold
from training.heads_training import Evaluation
from training.strength import Strength

CARD, README = "card.json", "README.md"


@dataclass(frozen=True)
class Stage:
    """One training of the heads: the shards it learnt from, and the held-out losses as it went."""

    name: str
    shards: int
    points: int
    evaluations: list[Evaluation]


@dataclass(frozen=True)
class Card:
    """All that is known of a guard. Digests are SHA-256.

    model          file → digest
    data           digests of pairs, benign prompts, safe prompts and wordings, and how many of each
    request        settings and options of the training
    labels         where they come from
    steps          accuracy over the run: prompts as written, and under redirected embeddings
    strength       None where no judge looked at redirected pictures
    final_check    None where no judge labelled finished pictures
    checkpoints    file → digest
    """

    concept: str
    model: dict[str, str]
    data: dict[str, Any]
    request: dict[str, Any]
    labels: str
    stages: list[Stage]
    classifier: ClassifierFigures
    roc: list[RocPoint]
    threshold: Threshold
    strength: Strength | None
    policy: Policy
    check: str
    steps: dict[str, list[StepAccuracy]]
    final_check: FinalCheck | None
    final_check_trusted: bool
    canaries: list[Canary]
    checkpoints: dict[str, str]
    version: str = __version__

    def write(self, folder: Path) -> None:
        """Write both files, each atomically."""
        for name, content in ((CARD, json.dumps(dataclasses.asdict(self), indent=1) + "\n"), (README, self.text())):
            with replacing(folder / name) as temporary:
                temporary.write_text(content, encoding="utf-8")

    def text(self) -> str:
        """In Markdown."""
        parts = [
            f"# A guard that forgets {printable(self.concept)}",
            f"Heads for `saferedir build --redirector guard.safetensors`, trained by saferedir {self.version}. Every setting, "
            f"digest and figure is in {CARD}.",
            *self._data(),
            *self._classifier(),
            *self._steps(),
            *self._strength(),
            "## Final check",
            self._final_check(),
            "## Canaries",
            self._canaries(),
        ]
        return "\n\n".join(parts) + "\n"

    def _data(self) -> list[str]:
        last = self.stages[-1]
        bests = [(stage.name, min(stage.evaluations, key=lambda one: one.losses["total"])) for stage in self.stages]
        return [
            "## Data",
            f"{self.data['training_pairs']} pairs of prompts to train on and {self.data['held_out_pairs']} held out. Labels: "
            f"{self.labels}. The heads learnt from {last.points} points of {last.shards} shards of trajectories. Held-out losses:",
            _table(
                ("stage", "steps", *bests[-1][1].losses),
                [(name, best.step, *(f"{loss:.4f}" for loss in best.losses.values())) for name, best in bests],
            ),
        ]

    def _classifier(self) -> list[str]:
        classifier, threshold = self.classifier, self.threshold
        shares = map(_percent, (classifier.precision, classifier.recall, classifier.false_positive_rate))
        return [
            "## Classifier, on held-out pairs",
            f"Threshold {threshold.threshold:g}: of {threshold.trajectories} benign trajectories, "
            f"{_percent(threshold.false_positive_rate)} have a point above it; at most "
            f"{_percent(threshold.asked_false_positive_rate)} were asked for.",
            _table(
                ("unsafe points", "safe points", "precision", "recall", "false positives"),
                [(classifier.unsafe, classifier.safe, *shares)],
            ),
            _table(
                ("threshold", "recall", "false positives"),
                [(f"{point.threshold:g}", _percent(point.recall), _percent(point.false_positive_rate)) for point in self.roc],
            ),
        ]

    def _steps(self) -> list[str]:
        """The paper's figure: what latent and prompt tell, over the run."""
        found = [
            "## Balanced accuracy over the run",
            "Alone means that the other input is that of another held-out point of the same timesteps. 50 % is chance.",
        ]
        for name, steps in self.steps.items():
            rows = [(_bin(step), step.points, _percent(step.both), _percent(step.latent), _percent(step.prompt)) for step in steps]
            heading = ("timestep", "points", "both", "latent alone", "prompt alone")
            found += [f"{name[0].upper()}{name[1:]}:", _table(heading, rows)]
        return found

    def _strength(self) -> list[str]:
        if self.strength is None:
            return []
        tried = [(f"{one.alpha_scale:g}", f"{one.shown} of {self.strength.pictures}") for one in self.strength.tried]
        return [
            "## Strength of the redirection",
            f"alpha_scale {self.strength.alpha_scale:g}. Redirected pictures of held-out prompts that show the concept:",
            _table(("alpha_scale", "shows it"), tried),
        ]

    def _final_check(self) -> str:
        if self.final_check is None:
            return "Not trained: no judge labelled finished pictures. A final check of this guard means nothing."
        check = self.final_check
        trusted = "It may be trusted." if self.final_check_trusted else "That is too little to trust it."
        return (
            f"Threshold {check.threshold:g}: of held-out pictures made under redirection, {check.flagged} of {check.unsafe} that "
            f"are still unsafe are flagged, and {check.false_alarms} of {check.safe} that are not. {trusted}"
        )

    def _canaries(self) -> str:
        if not self.canaries:
            return "None: no held-out pair was judged rightly with room to spare. Give some to `saferedir build --canaries`."
        answers = {True: "unsafe", False: "safe"}
        return "\n".join(f"- {answers[one.unsafe]}, seed {one.seed}: {printable(one.prompt)}" for one in self.canaries)


def _table(heading: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _bin(step: StepAccuracy) -> str:
    return "final" if step.timestep == FINAL else f"from {step.timestep}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
