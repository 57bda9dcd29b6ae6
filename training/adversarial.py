"""Adversarial training: attacks on the current heads, whose finds are pairs to train on."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from tqdm import tqdm

from engines.decode import decode, without_duplicates
from engines.pairs import Pair
from engines.policy import Policy
from engines.store.atomic import replacing
from evaluation.attacks.budget import Budget
from evaluation.attacks.greedy import greedy_coordinate
from evaluation.attacks.prefix import adversarial_prefix
from evaluation.attacks.target import Prompt, Target
from evaluation.attacks.words import Words
from evaluation.judges import Judge
from evaluation.sampling import RunOptions
from evaluation.twin import Twin
from saferedir.guard import Concept
from saferedir.heads import Redirector
from training.generator import Generator
from training.settings import TrainingSettings
from training.shards import digest_of

SEARCHES = (greedy_coordinate, adversarial_prefix)
LONGEST = 25  # words of a prompt that is attacked, so that it fits into 77 tokens with what is added


@dataclass(frozen=True)
class Finds:
    """What decided the attacks, and the pairs whose unsafe prompt fooled the guard."""

    digest: str
    pairs: list[Pair]


class Adversary:
    """Attacks heads on prompts of the training's pairs, the same for the same seed.

    The searches of SEARCHES take turns. What the final check withholds has succeeded, too: the redirection has to hold without
    it. Words are whole tokens of the model's tokenizer, of `allowed` ones alone if that is given.
    """

    def __init__(
        self, generator: Generator, judge: Judge, pairs: Sequence[Pair], settings: TrainingSettings, allowed: Sequence[str] | None
    ) -> None:
        self._generator, self._judge, self._allowed = generator, judge, allowed
        self._pairs, self._count, self._steps = pairs, settings.attacks, settings.attack_steps

    def attacked(self, seed: int) -> list[Pair]:
        """The pairs that a round attacks, or all where there are fewer. They fit into the encoding with what attacks add."""
        short = [pair for pair in self._pairs if max(len(pair.safe.split()), len(pair.unsafe.split())) <= LONGEST]
        chosen = np.random.default_rng(seed).permutation(len(short))[: self._count]
        return [short[number] for number in chosen]

    def finds(self, heads: Redirector, policy: Policy, seed: int) -> list[Pair]:
        """Pairs whose unsafe prompt, with words that a search found around it, gives an unsafe picture in spite of redirection."""
        generator, concept = self._generator, Concept(copy.deepcopy(heads))
        twin = Twin.of(generator.components, generator.tokenizer, generator.schedule, generator.geometry, [concept], [policy])
        target = Target(twin, self._judge, RunOptions(scheduler="ddim"), leaves=False)
        words, budget, found = Words.of(twin, self._allowed), Budget(steps=self._steps, restarts=2), []
        telling = self._telling(words)
        for number, pair in enumerate(tqdm(self.attacked(seed), desc="attacks", unit="prompt", mininterval=5)):
            draw, search = Random(f"{seed} {number}"), SEARCHES[number % len(SEARCHES)]
            result = search(target, Prompt(pair.unsafe, pair.safe, number), words, budget, draw)
            if result.fooled and result.safe is not None:
                found.append(Pair(_counterpart(target, result.safe, pair.safe, telling, number), result.text))
        return found

    def _telling(self, words: Words) -> set[str]:
        """Words that say the concept: their token is in the unsafe prompt of some pair, and not in the safe one."""
        prompts = ([getattr(pair, name) for pair in self._pairs] for name in ("safe", "unsafe"))
        safe, unsafe = map(self._generator.token_ids, prompts)
        ids = set().union(*({*of_unsafe} - {*of_safe} for of_safe, of_unsafe in zip(safe, unsafe, strict=True)))
        return {text for text, token in zip(words.texts, words.ids.tolist(), strict=True) if token in ids}


def _counterpart(target: Target, text: str, safe: str, telling: set[str], seed: int) -> str:
    """The safe prompt with those words around it that do not say the concept; alone, if its picture shows the concept with them."""
    before, _, after = text.partition(safe)
    kept = [[word for word in part.split() if word not in telling] for part in (before, after)]
    worded = " ".join([*kept[0], safe, *kept[1]])
    return safe if target.shows(target.unguarded_run(worded, seed))[0] else worded


def kept_finds(path: Path, decided_by: Mapping[str, Any], attack: Callable[[], list[Pair]]) -> list[Pair]:
    """What attacks have found: what the file holds, if the same decided it, else what `attack` gives, which is then kept."""
    digest = digest_of(decided_by)
    try:
        kept = decode(Finds, json.loads(path.read_bytes(), object_pairs_hook=without_duplicates), path.name)
        if kept.digest == digest:
            return kept.pairs
    except (OSError, ValueError, RecursionError):  # attacked again
        pass
    finds = Finds(digest, attack())
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(dataclasses.asdict(finds), indent=1) + "\n", encoding="utf-8")
    return finds.pairs
