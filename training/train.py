"""A guard for a model: trajectories of aligned prompts, heads that learn from them, calibration, checkpoint and model card."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engines import __version__
from engines.errors import InputError
from engines.pairs import Pair
from engines.policy import Policy
from engines.store.digests import file_digest
from engines.store.output_folder import check_apart
from evaluation.judges import load_judge
from saferedir.checkpoint import load_redirector
from saferedir.heads import Redirector, RedirectorConfig
from training.adversarial import Adversary, kept_finds
from training.calibration import calibrated_threshold
from training.captions import pair_captions, safe_captions, unsafe_captions
from training.card import Card, Stage
from training.data import TrainingData
from training.dataset import Batches, Dataset
from training.generator import Generator
from training.guard_files import Trained
from training.heads_training import train_heads
from training.request import TrainingRequest
from training.settings import OF_HEADS, OF_TRAJECTORIES
from training.shards import digest_of, record_shards
from training.stages import finished_or_trained
from training.strength import SHIFT, Strength, calibrated_strength
from training.trajectories import Caption, record

MEASURING = 4  # batches to train on for each one of held-out pairs

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
        self.generator = Generator(request.model, request.device, report, request.settings.precision)
        if self.settings.adversarial_rounds and self.generator.distilled:
            raise InputError("adversarial_rounds: expected a model with classifier-free guidance, found one distilled with it")
        self.heads = self._initial(initial).to(self.generator.device)
        self.pairs = [*self.data.training]  # and what attacks find
        self.strength: Strength | None = None  # of the heads' redirection
        self.stages: list[Stage] = []
        self.shards: list[Path] = []  # to train on
        self.benign: list[Path] = []  # that calibrate the threshold
        self.measuring: list[Path] = []  # of held-out pairs

    def run(self) -> Card:
        data, settings = self.data, self.settings
        self.shards += self._record("plain", settings.batches, self._pairs(data.training))
        self.measuring += self._record("plain-held-out", max(settings.batches // MEASURING, 1), self._pairs(data.held_out))
        redirects = self.judge is not None and settings.redirected_batches > 0
        self._train("plain", settings.steps // 2 if redirects else settings.steps)
        if redirects:
            count = settings.redirected_batches
            training, held_out = self._redirected(data.training), self._redirected(data.held_out)
            heads = self._guarding()
            self.shards += self._record("redirected", count, training, heads=heads)
            self.measuring += self._record("redirected-held-out", max(count // MEASURING, 1), held_out, heads=heads)
            self._train("redirected", settings.steps)
        self.strength = self._calibrated_strength()
        self.benign = self._recorded_benign()
        for number in range(1, settings.adversarial_rounds + 1):
            self._adversarial(number)
        trained = Trained(self.request, data, self.generator, self.judge, self.heads, self.strength, self.stages)
        return trained.write(Dataset(self.measuring), Dataset(self.benign))

    def _adversarial(self, number: int) -> None:
        """One round: attack the heads, and train them further with what succeeded among the data."""
        found = self._found(number)
        if not found:
            return
        name, first = f"adversarial-{number}", len(self.pairs)
        self.pairs += found
        shards, heads = max(self.settings.batches // MEASURING, 1), self._guarding()
        decides = {"found": digest_of({"pairs": [dataclasses.asdict(pair) for pair in found]})}
        self.shards += self._record(name, shards, self._pairs(found, first), decides)
        self.shards += self._record(f"{name}-redirected", shards, self._redirected(found, first), decides, heads)
        self._train(name, self.settings.steps // 2)
        self.strength = self._calibrated_strength()

    def _found(self, number: int) -> list[Pair]:
        """What the attacks of a round find."""
        assert self.judge is not None
        adversary = Adversary(self.generator, self.judge, self.data.training, self.settings, self.data.attack_words)
        policy, seed = self._policy(), self.settings.seed + number
        attacked = len(adversary.attacked(seed))
        decided_by = {
            **self._decided_by(),
            "heads": _digest(self.heads),
            "policy": dataclasses.asdict(policy),
            "attacks": attacked,
            "words": self.data.digests()["attack_words"],
            "steps": self.settings.attack_steps,
            "round": number,
        }
        file = self.output / "attacks" / f"{number}.json"
        found = kept_finds(file, decided_by, lambda: adversary.finds(self.heads, policy, seed))
        self.report(f"adversarial round {number}: {len(found)} of {attacked} attacks succeeded")
        return found

    def _policy(self) -> Policy:
        """Under which the heads as they are would guard."""
        assert self.strength is not None
        threshold = calibrated_threshold(self._guarding(), Dataset(self.benign), self.settings.false_positive_rate)
        return Policy(alpha_scale=self.strength.alpha_scale, threshold=threshold.threshold, shift=SHIFT)

    def _calibrated_strength(self) -> Strength | None:
        """How strongly the heads as they are must redirect; None without a judge."""
        if self.judge is None:
            return None
        return calibrated_strength(self.generator, self._guarding(), self.data.held_out, self.judge)

    def _guarding(self) -> Redirector:
        """A copy of the heads as they are, which guards while these are trained."""
        return copy.deepcopy(self.heads).eval()

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

    def _pairs(self, pairs: Sequence[Pair], first: int = 0) -> Captions:
        """Both prompts of these pairs, the first of which is number `first` of `self.pairs`."""
        augmentation, count = self.data.augmentation(pairs), self.settings.pairs_per_batch
        return lambda draw, _: pair_captions(pairs, augmentation, count, draw, first)

    def _redirected(self, pairs: Sequence[Pair], first: int = 0) -> Captions:
        """The unsafe prompts alone."""
        augmentation, count = self.data.augmentation(pairs), self.settings.pairs_per_batch
        return lambda draw, _: unsafe_captions(pairs, augmentation, count, draw, first)

    def _recorded_benign(self) -> list[Path]:
        """Trajectories of the user's benign prompts, each once and as it is; without any, those of held-out pairs."""
        if not self.data.benign:
            return self.measuring
        size, prompts = 2 * self.settings.pairs_per_batch, self.data.benign
        parts = [prompts[first : first + size] for first in range(0, len(prompts), size)]
        decides = {"benign": digest_of({"prompts": prompts})}
        return self._record("benign", len(parts), lambda _, number: safe_captions(parts[number]), decides)

    def _record(
        self,
        name: str,
        count: int,
        captions: Captions,
        decides: Mapping[str, str] | None = None,
        heads: Redirector | None = None,
    ) -> list[Path]:
        """The shards of a series, as `training.shards` keeps them; redirected by a guard of `heads`, if any.

        `decides` is what decides the captions beside the pairs.
        """
        decided_by = {**self._decided_by(), "series": name, **(decides or {}), "heads": None if heads is None else _digest(heads)}
        salt = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")

        def shard(number: int) -> dict[str, Tensor]:
            draw = np.random.default_rng([self.settings.seed, salt, number])
            return record(self.generator, captions(draw, number), self.settings, draw, self.judge, heads)

        return record_shards(self.output / "trajectories" / name, decided_by, count, shard)

    def _decided_by(self) -> dict[str, Any]:
        """What decides every trajectory."""
        prompts = {name: digest for name, digest in self.data.digests().items() if name not in ("benign", "attack_words")}
        settings = self.settings.of(OF_TRAJECTORIES)
        return {"version": __version__, "model": self.generator.files, "prompts": prompts, "judge": self.request.judge, **settings}

    def _train(self, name: str, steps: int) -> None:
        """Train the heads further on all shards that there are."""
        dataset, held_out = Dataset(self.shards), Dataset(self.measuring)
        shards = [file_digest(path) for path in (*self.shards, *self.measuring)]
        settings = dataclasses.replace(self.settings, steps=max(steps, 1))
        decided_by = {
            "heads": _digest(self.heads),
            "shards": shards,
            "pairs": digest_of({"pairs": [dataclasses.asdict(pair) for pair in self.pairs]}),
            "wordings": self.data.digests()["wordings"],
            **settings.of(OF_HEADS),
        }
        batches = Batches(
            dataset, self.settings.batch_size, self.settings.seed, self.generator, self.pairs,
            self.data.augmentation(self.data.training),
        )  # fmt: skip
        heads, finished = finished_or_trained(
            self.output / "heads",
            name,
            decided_by,
            lambda: train_heads(self.heads, batches, held_out, settings, f"heads, {name}"),
        )
        self.heads = heads.to(self.generator.device)
        self.stages.append(Stage(name, len(self.shards), len(dataset), finished.evaluations))


def _digest(heads: Redirector) -> str:
    """SHA-256 of the heads' tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(heads.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
