"""A guard for a model: trajectories of aligned prompts, heads that learn from them, calibration, checkpoint and model card."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engines.errors import InputError
from engines.policy import Policy
from engines.store.digests import file_digest
from engines.store.output_folder import check_apart
from evaluation.judges import load_judge
from saferedir.checkpoint import load_redirector, save_redirector
from saferedir.heads import Redirector, RedirectorConfig
from saferedir.metadata import Metadata
from training.calibration import calibrated, classifier_figures, final_check, probabilities, roc, step_accuracy
from training.canaries import choose_canaries
from training.captions import pair_captions, safe_captions, unsafe_captions
from training.card import Card, Stage
from training.data import TrainingData
from training.dataset import Batches, Dataset
from training.generator import Generator
from training.heads_training import train_heads
from training.pairs import Pair
from training.request import TrainingRequest
from training.shards import record_shards
from training.stages import finished_or_trained
from training.trajectories import Caption, record

GUARD, PUBLISHED = "guard.safetensors", "guard.pt"
MEASURING = 4  # batches to train on for each one of held-out pairs
LABELS = {
    False: "what each prompt asks for; no judge looked at pictures",
    True: "what each prompt asks for or the judge sees, under redirection what the judge sees alone",
}

Captions = Callable[[np.random.Generator, int], list[Caption]]


def train_guard(request: TrainingRequest, report: Callable[[str], None] = print) -> Card:
    """Train a guard, write `guard.safetensors`, `guard.pt`, `card.json` and `README.md` to `request.output`, and return the card.

    A run that was killed goes on where it was: recorded trajectories and finished stages are kept in the folder.

    Raises:
        InputError: a file, the model, the judge or a setting cannot be used, or the folder has the data of another training.
    """
    return _Training(request, report).run()


class _Training:
    def __init__(self, request: TrainingRequest, report: Callable[[str], None]) -> None:
        self.request, self.settings, self.output, self.report = request, request.settings, request.output, report
        self.data = TrainingData.read(request)
        self.judge = None if request.judge is None else load_judge(request.judge)
        if Path(request.model.model).exists():
            check_apart(self.output, "--output", Path(request.model.model), "the model's")
        initial = None if request.init is None else load_redirector(request.init)
        self.generator = Generator(request.model, request.device, report)
        self.heads = self._initial(initial).to(self.generator.device)
        self.stages: list[Stage] = []
        self.shards: list[Path] = []  # to train on
        self.measuring: list[Path] = []  # of held-out pairs

    def run(self) -> Card:
        data, settings = self.data, self.settings
        self.shards += self._record("plain", settings.batches, self._pairs(data.training))
        self.measuring += self._record("plain-held-out", max(settings.batches // MEASURING, 1), self._pairs(data.held_out))
        redirects = self.judge is not None and settings.redirected_batches > 0
        self._train("plain", settings.steps // 2 if redirects else settings.steps)
        if redirects:
            count = settings.redirected_batches
            self.shards += self._record("redirected", count, self._redirected(data.training), redirected=True)
            held_out = self._redirected(data.held_out)
            self.measuring += self._record("redirected-held-out", max(count // MEASURING, 1), held_out, redirected=True)
            self._train("redirected", settings.steps)
        return self._measured()

    def _initial(self, given: Redirector | None) -> Redirector:
        """The heads to begin with."""
        width = self.generator.geometry.embed_dim
        if given is None:
            torch.manual_seed(self.settings.seed)
            return Redirector(RedirectorConfig(embed_dim=width, encoder_widths=self.request.widths))
        if given.config.embed_dim != width:
            raise InputError(
                f"{self.request.init}: expected heads for prompts of width {width}, as this model's, found {given.config.embed_dim}"
            )
        return given

    def _pairs(self, pairs: Sequence[Pair]) -> Captions:
        augmentation, count = self.data.augmentation(pairs), self.settings.pairs_per_batch
        return lambda draw, _: pair_captions(pairs, augmentation, count, draw)

    def _redirected(self, pairs: Sequence[Pair]) -> Captions:
        augmentation, count = self.data.augmentation(pairs), self.settings.pairs_per_batch
        return lambda draw, _: unsafe_captions(pairs, augmentation, count, draw)

    def _benign(self) -> list[Path]:
        """Trajectories of the user's benign prompts, each once and as it is."""
        size, prompts = 2 * self.settings.pairs_per_batch, self.data.benign
        parts = [prompts[first : first + size] for first in range(0, len(prompts), size)]
        return self._record("benign", len(parts), lambda _, number: safe_captions(parts[number]))

    def _record(self, name: str, count: int, captions: Captions, redirected: bool = False) -> list[Path]:
        """The shards of a series, as `training.shards` keeps them."""
        heads = copy.deepcopy(self.heads).eval() if redirected else None
        decided_by = {**self._decided_by(), "series": name, "heads": None if heads is None else _digest(heads)}
        salt = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")

        def shard(number: int) -> dict[str, Tensor]:
            draw = np.random.default_rng([self.settings.seed, salt, number])
            return record(self.generator, captions(draw, number), self.settings, draw, self.judge, heads)

        return record_shards(self.output / "trajectories" / name, decided_by, count, shard)

    def _decided_by(self) -> dict[str, Any]:
        """What decides trajectories: not how the heads are trained, nor how many batches there are, of which more may be added."""
        names = ("seed", "pairs_per_batch", "kept_steps", "least_steps", "most_steps")
        settings = {name: getattr(self.settings, name) for name in names}
        return {"model": self.generator.files, "data": self.data.described(), "judge": self.request.judge, **settings}

    def _train(self, name: str, steps: int) -> None:
        """Train the heads further on all shards that there are."""
        dataset, held_out = Dataset(self.shards), Dataset(self.measuring)
        shards = [file_digest(path) for path in (*self.shards, *self.measuring)]
        settings = dataclasses.replace(self.settings, steps=max(steps, 1))
        decided_by = {
            "heads": _digest(self.heads),
            "shards": shards,
            "settings": dataclasses.asdict(settings),
            "data": self.data.described(),
        }
        batches = Batches(
            dataset, self.settings.batch_size, self.settings.seed, self.generator, self.data.training,
            self.data.augmentation(self.data.training),
        )  # fmt: skip
        heads, finished = finished_or_trained(
            self.output / "heads",
            name,
            decided_by,
            lambda: train_heads(self.heads, batches, held_out, settings, f"heads, {name}"),
        )
        self.heads = heads.to(self.generator.device)
        self.stages.append(Stage(name, len(self.shards), len(dataset), finished.looks))

    def _measured(self) -> Card:
        """Calibrate, choose canaries, and write everything."""
        heads, held_out = self.heads.eval(), Dataset(self.measuring)
        plain, redirected = (np.nonzero(held_out.redirected == value)[0] for value in (False, True))
        p_unsafe, unsafe = probabilities(heads, held_out, plain), held_out.unsafe[plain]
        benign = Dataset(self._benign()) if self.data.benign else None
        source, rows = (held_out, plain[~unsafe]) if benign is None else (benign, np.nonzero(~benign.unsafe)[0])
        p_benign = probabilities(heads, source, rows)
        threshold = calibrated(p_benign, source.trajectory[rows], self.settings.false_positive_rate)
        policy = Policy(threshold=threshold.threshold, shift="conditional")
        check = final_check(heads, held_out, policy.threshold) if len(redirected) else None
        steps = {"prompts as written": step_accuracy(heads, held_out, plain, policy.threshold)}
        if len(redirected):
            steps["redirected prompts"] = step_accuracy(heads, held_out, redirected, policy.threshold)
        metadata = Metadata(
            concept=self.request.concept,
            canaries=choose_canaries(heads, self.generator, self.data.held_out, policy.threshold, self.judge),
            final_check=check is not None and check.trusted,
            policy=policy,
        )
        save_redirector(heads.cpu(), self.output / GUARD, metadata)
        save_redirector(heads, self.output / PUBLISHED)
        card = Card(
            concept=metadata.concept,
            model=self.generator.files,
            data=self.data.described(),
            request=_described(self.request),
            labels=LABELS[self.judge is not None],
            stages=self.stages,
            classifier=classifier_figures(p_unsafe, unsafe, policy.threshold),
            roc=roc(p_unsafe, unsafe),
            threshold=threshold,
            policy=policy,
            check=metadata.check,
            steps=steps,
            final_check=check,
            final_check_trained=metadata.final_check,
            canaries=metadata.canaries,
            checkpoints={name: file_digest(self.output / name) for name in (GUARD, PUBLISHED)},
        )
        card.write(self.output)
        return card


def _digest(heads: Redirector) -> str:
    """SHA-256 of the heads' tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(heads.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _described(request: TrainingRequest) -> dict[str, Any]:
    """The request's settings and options, without paths: what was in the files is described by digests."""
    options = {"judge": request.judge, "device": request.device, "encoder_widths": list(request.widths)}
    initial = None if request.init is None else file_digest(request.init)
    edits = [{"kind": edit.kind, **edit.settings()} for edit in request.model.edits]
    return {**dataclasses.asdict(request.settings), **options, "init": initial, "edits": edits}
