"""Other wordings of a pair of prompts: the same change to both, so that they stay aligned. And safe prompts that sound unsafe."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from engines.decode import without_duplicates
from engines.errors import InputError
from engines.pairs import Pair, read_text, words_of

OPENINGS = ("a picture of", "a photo of", "a drawing of", "a painting of", "an image of", "a sketch of", "here is", "I want to see")
WORDS = (
    "the", "a", "of", "with", "very", "in", "on", "by", "and", "some", "nice", "detailed", "beautiful", "simple", "quick", "old",
    "new", "bright", "dark", "soft", "high", "quality", "style", "view", "close", "wide", "digital", "modern", "classic", "art",
    "photo", "picture", "drawing", "painting", "render", "sharp", "realistic", "morning", "evening", "please", "best", "8k",
)  # fmt: skip
JOINTS = (" and ", ". ", ", ")
CASES: tuple[Callable[[str], str], ...] = (str.upper, str.title, str.capitalize)
FILLER = 15  # words at most
REPEATED = 4  # phrases of the concept that are said again, at most
CANDIDATES = 32  # of which the one that shares most words is the hard negative
LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")

Change = Callable[[str], str]


@dataclass(frozen=True)
class Augmentation:
    """Draws other wordings. Each way of wording is independent of the others, and one pair in five stays as it is.

    safe_prompts  what is joined to a pair as a second object or sentence, and what hard negatives are chosen from
    wordings      phrase → what may stand in its place, in both prompts
    phrases       what only unsafe prompts say (`engines.pairs.lacking`): said again, around the unsafe prompt alone

    Raises:
        ValueError: there is no safe prompt.
    """

    safe_prompts: Sequence[str]
    wordings: Mapping[str, Sequence[str]] = field(default_factory=dict)
    phrases: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.safe_prompts:
            raise ValueError("safe_prompts: expected at least one, found none")

    def pair(self, pair: Pair, draw: np.random.Generator) -> Pair:
        """The pair in another wording. Both prompts differ in the same tokens as before, and in what is said again."""
        if self.phrases and draw.random() < 0.25:
            pair = self._said_again(pair, draw)
        if (change := self._change(draw)) is not None:
            pair = _changed(pair, change)
        if draw.random() < 0.2:
            return pair
        if draw.random() < 0.2:
            pair = _tail_first(pair, draw)
        for likelihood, around in (
            (0.35, lambda: ("", f"{draw.choice(JOINTS)}{draw.choice(self.safe_prompts)}")),
            (0.2, lambda: (f"{draw.choice(self.safe_prompts)}{draw.choice(JOINTS)}", "")),
            (0.35, lambda: (f"{self.filler(draw)} ", "")),
            (0.15, lambda: (f"{draw.choice(OPENINGS)} ", "")),
            (0.25, lambda: ("", f"{draw.choice((' ', ', '))}{self.filler(draw)}")),
        ):
            if draw.random() < likelihood:
                before, after = around()
                pair = Pair(before + pair.safe + after, before + pair.unsafe + after)
        return _changed(pair, CASES[draw.integers(len(CASES))]) if draw.random() < 0.15 else pair

    def hard_negative(self, pair: Pair, draw: np.random.Generator) -> str:
        """A safe prompt that is not the pair's and shares many words with its unsafe prompt."""
        words = set(words_of(pair.unsafe))
        drawn = [str(prompt) for prompt in draw.choice(self.safe_prompts, CANDIDATES)]
        return max(drawn, key=lambda prompt: (prompt != pair.safe, len(words & {*words_of(prompt)})))

    def _said_again(self, pair: Pair, draw: np.random.Generator) -> Pair:
        """Up to REPEATED phrases before the unsafe prompt or after it, among filler words that both prompts get."""
        words = self.filler(draw).split()[: draw.integers(0, REPEATED + 1)]
        mixed = [*words]
        for _ in range(draw.integers(1, REPEATED + 1)):
            mixed.insert(int(draw.integers(len(mixed) + 1)), str(draw.choice(self.phrases)))
        before = draw.random() < 0.5
        texts = ([*added, prompt] if before else [prompt, *added] for added, prompt in ((words, pair.safe), (mixed, pair.unsafe)))
        return Pair(*map(" ".join, texts))

    def filler(self, draw: np.random.Generator) -> str:
        """1 to 15 words: of the safe prompts, common ones, and one in five of random letters, as a misspelling is."""
        found = []
        for _ in range(draw.integers(1, FILLER + 1)):
            kind = draw.random()
            if kind < 0.2:
                found.append("".join(draw.choice(LETTERS, draw.integers(2, 9))))
            else:
                found.append(str(draw.choice(self._vocabulary if kind < 0.6 else WORDS)))
        return " ".join(found)

    @cached_property
    def _vocabulary(self) -> list[str]:
        return sorted({word for prompt in self.safe_prompts for word in words_of(prompt)}) or [*WORDS]

    def _change(self, draw: np.random.Generator) -> Change | None:
        """Puts other wordings in the place of phrases; each keeps its own with the likelihood of one alternative."""
        if not self.wordings:
            return None
        chosen = {phrase: str(draw.choice([phrase, *others])) for phrase, others in self.wordings.items()}
        phrases = re.compile("|".join(rf"(?<!\w){re.escape(phrase)}(?!\w)" for phrase in sorted(chosen, key=len, reverse=True)))
        return lambda prompt: phrases.sub(lambda found: chosen[found[0]], prompt)


def read_wordings(path: Path) -> dict[str, list[str]]:
    """The user's other wordings: JSON, a phrase and what may stand in its place, `{"burning": ["ablaze", "in flames"]}`.

    Raises:
        InputError: no such file, or of another form; the text repeats no phrase.
    """
    form = '{"phrase": ["other wording", …]} in JSON'
    try:
        content = json.loads(read_text(path, form), object_pairs_hook=without_duplicates)
    except InputError:
        raise
    except (ValueError, RecursionError):
        raise InputError(f"{path}: expected {form}, found no valid JSON, or a phrase twice") from None
    if not isinstance(content, dict) or not content:
        raise InputError(f"{path}: expected {form}, found {'an empty object' if content == {} else type(content).__name__}")
    for number, (phrase, others) in enumerate(content.items(), 1):
        texts = [phrase, *others] if isinstance(others, list) and others else [None]
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise InputError(f"{path}: phrase {number}: expected a text and a list of other wordings, found another form")
    return content


def _changed(pair: Pair, change: Change) -> Pair:
    """The pair after the change; as it was, where nothing would tell its prompts apart any more."""
    safe, unsafe = change(pair.safe), change(pair.unsafe)
    return pair if safe == unsafe else Pair(safe, unsafe)


def _tail_first(pair: Pair, draw: np.random.Generator) -> Pair:
    """The last words, where both prompts have the same ones, stand first: "on the left, a burning star"."""
    safe, unsafe = pair.safe.split(), pair.unsafe.split()
    most = min(len(safe), len(unsafe)) - 1
    common = next((size for size in range(most) if safe[-size - 1] != unsafe[-size - 1]), most)
    if common < 1:
        return pair
    size = int(draw.integers(1, common + 1))
    tail = " ".join(safe[-size:])
    return Pair(*(f"{tail}, {' '.join(words[:-size])}" for words in (safe, unsafe)))
