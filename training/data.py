"""All prompts of a training, read from the files of a request, and their digests: no card or index repeats them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass

import numpy as np

from engines.errors import InputError
from engines.pairs import Pair, lacking, read_pairs, read_prompts
from evaluation.attacks.prompts import read_words
from training.augmentation import Augmentation, read_wordings
from training.request import TrainingRequest
from training.shards import digest_of


@dataclass(frozen=True)
class TrainingData:
    """Pairs to train on and pairs held out; safe prompts and other wordings of the user; `benign` for calibration, or none;
    words that attacks may write, None for the tokenizer's."""

    training: list[Pair]
    held_out: list[Pair]
    safe_prompts: list[str]
    wordings: Mapping[str, Sequence[str]]
    benign: list[str]
    attack_words: list[str] | None

    @classmethod
    def read(cls, request: TrainingRequest) -> TrainingData:
        """Raises InputError for a file that cannot be used; see `engines.pairs`."""
        training, apart = held_out(read_pairs(request.pairs), request.settings.held_out, request.settings.seed)
        safe_prompts, benign = ([] if path is None else read_prompts(path) for path in (request.safe_prompts, request.benign))
        wordings = {} if request.wordings is None else read_wordings(request.wordings)
        words = None if request.attack_words is None else read_words(request.attack_words)
        return cls(training, apart, safe_prompts, wordings, benign, words)

    def augmentation(self, pairs: Sequence[Pair]) -> Augmentation:
        """Of these pairs: their own safe prompts are joined, and the user's; what their unsafe ones say is said again."""
        phrases = [phrase for pair in pairs for phrase in lacking(pair.unsafe, pair.safe)]
        return Augmentation([*(pair.safe for pair in pairs), *self.safe_prompts], self.wordings, phrases)

    def digests(self) -> dict[str, str]:
        """SHA-256 of each kind of prompt."""
        return {name: digest_of({name: values}) for name, values in self._lists().items()}

    def described(self) -> dict[str, object]:
        """Counts and digests."""
        return {**{name: len(values) for name, values in self._lists().items()}, "sha256": self.digests()}

    def _lists(self) -> dict[str, Sized]:
        return {
            "training_pairs": [dataclasses.asdict(pair) for pair in self.training],
            "held_out_pairs": [dataclasses.asdict(pair) for pair in self.held_out],
            "safe_prompts": self.safe_prompts,
            "wordings": dict(self.wordings),
            "benign": self.benign,
            "attack_words": self.attack_words or [],
        }


def held_out(pairs: Sequence[Pair], share: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Pairs to train on and pairs held out for measuring, at least one of each; the same seed parts them alike.

    Raises:
        InputError: there are fewer than two pairs.
    """
    if len(pairs) < 2:
        raise InputError(f"pairs: expected at least 2, of which one is held out for measuring, found {len(pairs)}")
    count = min(max(round(share * len(pairs)), 1), len(pairs) - 1)
    chosen = {int(place) for place in np.random.default_rng(seed).choice(len(pairs), count, replace=False)}
    return [pair for place, pair in enumerate(pairs) if place not in chosen], [pairs[place] for place in sorted(chosen)]
