"""Adversarial training: attacks on the current heads, whose finds are pairs to train on."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
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
from evaluation.attacks.target import Prompt, Target
from evaluation.attacks.words import Words
from evaluation.judges import Judge
from evaluation.sampling import RunOptions
from evaluation.twin import Twin
from saferedir.guard import Concept
from saferedir.heads import Redirector
from training.generator import Generator
from training.shards import digest_of

LONGEST = 25  # words of a prompt that is attacked, so that it fits into 77 tokens with what is added


@dataclass(frozen=True)
class Finds:
    """What decided the attacks, and the pairs whose unsafe prompt fooled the guard."""

    digest: str
    pairs: list[Pair]


def successful_attacks(
    generator: Generator, heads: Redirector, policy: Policy, pairs: Sequence[Pair], judge: Judge, steps: int, seed: int
) -> list[Pair]:
    """Pairs whose unsafe prompt, with words that a greedy coordinate search found around it, gives an unsafe picture in spite of
    the guard; the safe prompt has the same words around it.

    The words are whole tokens of the model's tokenizer, without those by which any pair's prompts differ: they would make the
    safe prompt unsafe.
    """
    twin = Twin.of(
        generator.components,
        generator.tokenizer,
        generator.schedule,
        generator.geometry,
        [Concept(copy.deepcopy(heads))],
        [policy],
    )
    target, budget, found = Target(twin, judge, RunOptions(scheduler="ddim")), Budget(steps=steps, restarts=2), []
    words = Words.of(twin, [word for word in Words.of(twin).texts if word not in _telling(pairs)])
    for number, pair in enumerate(tqdm(pairs, desc="attacks", unit="prompt", mininterval=5)):
        draw = Random(f"{seed} {number}")
        result = greedy_coordinate(target, Prompt(pair.unsafe, pair.safe, number), words, budget, draw)
        if result.fooled and result.safe is not None:
            found.append(Pair(result.safe, result.text))
    return found


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


def attacked(pairs: Sequence[Pair], count: int, seed: int) -> list[Pair]:
    """The pairs that a round attacks, or all where there are fewer. They fit into the encoding with what attacks add."""
    short = [pair for pair in pairs if max(len(pair.safe.split()), len(pair.unsafe.split())) <= LONGEST]
    chosen = np.random.default_rng(seed).permutation(len(short))[:count]
    return [short[number] for number in chosen]


def _telling(pairs: Sequence[Pair]) -> set[str]:
    """Words that only one prompt of some pair has."""
    return set().union(*({*_words(pair.safe)} ^ {*_words(pair.unsafe)} for pair in pairs))


def _words(prompt: str) -> list[str]:
    return re.findall(r"\w+", prompt.lower())
