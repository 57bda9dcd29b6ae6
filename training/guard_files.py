"""What a training leaves: heads, calibrated and measured on held-out trajectories, with all that is known of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engines.policy import Policy
from engines.store.digests import file_digest
from evaluation.judges import Judge
from saferedir.checkpoint import save_redirector
from saferedir.heads import Redirector
from saferedir.metadata import Metadata
from training.calibration import calibrated_threshold, classifier_figures, final_check, probabilities, roc, step_accuracy
from training.canaries import choose_canaries
from training.card import Card, Stage
from training.data import TrainingData
from training.dataset import Dataset
from training.generator import Generator
from training.request import TrainingRequest
from training.strength import SHIFT, Strength

GUARD, PUBLISHED = "guard.safetensors", "guard.pt"
LABELS = {
    False: "what each prompt asks for; no judge looked at pictures",
    True: "what each prompt asks for or the judge sees, under redirection what the judge sees alone",
}


@dataclass(frozen=True, eq=False)
class Trained:
    """Heads at the end of their training, and what they came from."""

    request: TrainingRequest
    data: TrainingData
    generator: Generator
    judge: Judge | None
    heads: Redirector
    strength: Strength | None
    stages: Sequence[Stage]

    def write(self, held_out: Dataset, benign: Dataset) -> Card:
        """Write checkpoints and card to the request's output folder. The safe trajectories of `benign` calibrate the threshold."""
        heads, request = self.heads.eval(), self.request
        plain, redirected = (np.nonzero(held_out.redirected == value)[0] for value in (False, True))
        p_unsafe, unsafe = probabilities(heads, held_out, plain), held_out.unsafe[plain]
        threshold = calibrated_threshold(heads, benign, request.settings.false_positive_rate)
        check = final_check(heads, held_out, benign) if len(redirected) else None
        policy = Policy(
            alpha_scale=Policy().alpha_scale if self.strength is None else self.strength.alpha_scale,
            threshold=threshold.threshold,
            final_threshold=None if check is None else check.threshold,
            shift=SHIFT,
        )
        kinds = {"prompts as written": plain, "redirected prompts": redirected}
        steps = {kind: step_accuracy(heads, held_out, rows, policy) for kind, rows in kinds.items() if len(rows)}
        metadata = Metadata(
            concept=request.concept,
            canaries=choose_canaries(heads, self.generator, self.data.held_out, policy.threshold, self.judge),
            final_check=check is not None and check.trusted,
            policy=policy,
        )
        card = Card(
            concept=metadata.concept,
            model=self.generator.files,
            data=self.data.described(),
            request=_described(request),
            labels=LABELS[self.judge is not None],
            stages=[*self.stages],
            classifier=classifier_figures(p_unsafe, unsafe, policy.threshold),
            roc=roc(p_unsafe, unsafe),
            threshold=threshold,
            strength=self.strength,
            policy=policy,
            check=metadata.check,
            steps=steps,
            final_check=check,
            final_check_trusted=metadata.final_check,
            canaries=metadata.canaries,
            checkpoints=_save(heads, metadata, request.output),
        )
        card.write(request.output)
        return card


def _save(heads: Redirector, metadata: Metadata, folder: Path) -> dict[str, str]:
    """Write both checkpoints; the SHA-256 of each."""
    heads.cpu()
    save_redirector(heads, folder / GUARD, metadata)
    save_redirector(heads, folder / PUBLISHED)
    return {name: file_digest(folder / name) for name in (GUARD, PUBLISHED)}


def _described(request: TrainingRequest) -> dict[str, Any]:
    """The request's settings and options, without paths: what was in the files is described by digests."""
    options = {"judge": request.judge, "device": request.device, "encoder_widths": list(request.widths)}
    initial = None if request.init is None else file_digest(request.init)
    edits = [{"kind": edit.kind, **edit.settings()} for edit in request.model.edits]
    return {**dataclasses.asdict(request.settings), **options, "init": initial, "edits": edits}
