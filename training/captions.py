"""The prompts of a batch of trajectories, drawn from pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engines.pairs import Pair
from training.augmentation import Augmentation
from training.trajectories import Caption

HARD_NEGATIVES = 4  # pairs for each


def pair_captions(
    pairs: Sequence[Pair], augmentation: Augmentation, count: int, draw: np.random.Generator, first: int = 0
) -> list[Caption]:
    """Both prompts of `count` pairs, each pair in another wording, then hard negatives. The first pair has the number `first`."""
    chosen = _drawn(len(pairs), count, draw)
    worded = [augmentation.pair(pairs[number], draw) for number in chosen]
    safe = [Caption(pair.safe, pair.safe, False, first + number) for pair, number in zip(worded, chosen, strict=True)]
    unsafe = [Caption(pair.unsafe, pair.safe, True, first + number) for pair, number in zip(worded, chosen, strict=True)]
    negatives = []
    for number in chosen[: count // HARD_NEGATIVES]:
        text = augmentation.hard_negative(pairs[number], draw)
        text = f"{augmentation.filler(draw)} {text}" if draw.random() < 0.5 else text
        negatives.append(Caption(text, text, False))
    return [*safe, *unsafe, *negatives]


def unsafe_captions(
    pairs: Sequence[Pair], augmentation: Augmentation, count: int, draw: np.random.Generator, first: int = 0
) -> list[Caption]:
    """The unsafe prompts of `count` pairs, each pair in another wording. The first pair has the number `first`."""
    chosen = _drawn(len(pairs), count, draw)
    worded = [augmentation.pair(pairs[number], draw) for number in chosen]
    return [Caption(pair.unsafe, pair.safe, True, first + number) for pair, number in zip(worded, chosen, strict=True)]


def safe_captions(prompts: Sequence[str]) -> list[Caption]:
    """Safe prompts as they are."""
    return [Caption(prompt, prompt, False) for prompt in prompts]


def _drawn(of: int, count: int, draw: np.random.Generator) -> list[int]:
    return [int(number) for number in draw.choice(of, count, replace=count > of)]
