"""Families of wordings by name, from which captions for training and evaluation are drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from demo.captions import Said, Wording, write
from demo.scene import Scene
from demo.wordings import (
    ABSENCES,
    DENIALS,
    ENDINGS,
    FILLER_WORDS,
    FIRE_ADJECTIVES,
    FIRE_WORDINGS,
    OPENINGS,
    SEEN_FILLER_WORDS,
    SEEN_FIRE_WORDINGS,
    SEEN_STAR_WORDS,
    SEEN_STYLE_PHRASES,
    STAR_WORDS,
    STYLE_NAMES,
    STYLE_PHRASES,
    UNSEEN_FILLER_WORDS,
    UNSEEN_FIRE_WORDINGS,
    UNSEEN_STAR_WORDS,
    UNSEEN_STYLE_PHRASES,
)

Option = TypeVar("Option")


@dataclass(frozen=True)
class Words:
    """The words that a family draws from."""

    fire: tuple[str, ...]
    stars: tuple[str, ...]
    styles: tuple[str, ...]


SEEN = Words(SEEN_FIRE_WORDINGS, SEEN_STAR_WORDS, SEEN_STYLE_PHRASES)
UNSEEN = Words(UNSEEN_FIRE_WORDINGS, UNSEEN_STAR_WORDS, UNSEEN_STYLE_PHRASES)
ALL = Words(FIRE_WORDINGS, STAR_WORDS, STYLE_PHRASES)

PLAIN = ("{first} {place}",)
REORDERED = ("{place}, {first}",)
ONE_LIST = ("{first}, {place}",)
TWO = ("{first} and {second} {place}", "{first} next to {second} {place}", "{first} beside {second} {place}")
TWO_REORDERED = ("{place}, {first} and {second}",)
TWO_SENTENCES = ("{first} {place}. {second}", "there is {first} {place}. there is {second}", "{place}, {first}. {second}")
TWO_LIST = ("{first}, {second}, {place}", "{first}; {second}; {place}")


@dataclass(frozen=True)
class Family:
    """What is open in a family's captions.

    Attributes:
        two: whether a scene has two objects.
        frames: see Wording.
        forms: how fire is joined to its object: "usual" (its place as adjective or phrase), "clause" ("that is …"),
            "aside" (between commas), "sentence" ("it is …", where the frame lets it).
        words: the concepts' words.
        articles: see Wording.
        openings, endings: a caption has one of them.
        filler_before, filler_after: the most filler words; at least one.
        fillers: the words they are drawn from.
        negated: whether an object that does not burn is said not to.
        misspelt: whether the concepts' words have a letter doubled, left out or swapped with the next one.
        upper: whether all is upper case.
    """

    two: bool = False
    frames: tuple[str, ...] = PLAIN
    forms: tuple[str, ...] = ("usual",)
    words: Words = SEEN
    articles: tuple[str, ...] = ("a",)
    openings: tuple[str, ...] = ("",)
    endings: tuple[str, ...] = ("",)
    filler_before: int = 0
    filler_after: int = 0
    fillers: tuple[str, ...] = SEEN_FILLER_WORDS
    negated: bool = False
    misspelt: bool = False
    upper: bool = False


FAMILIES = {
    "plain": Family(),
    "filler before": Family(filler_before=6),
    "filler after": Family(filler_after=15),
    "unseen filler": Family(filler_before=6, filler_after=6, fillers=UNSEEN_FILLER_WORDS),
    "two objects": Family(two=True, frames=TWO),
    "two sentences": Family(two=True, frames=TWO_SENTENCES),
    "picture of": Family(openings=OPENINGS),
    "list": Family(two=True, frames=TWO_LIST, articles=("a", "")),
    "punctuation": Family(frames=ONE_LIST, forms=("usual", "aside"), endings=ENDINGS),
    "upper case": Family(upper=True),
    "reordered": Family(frames=REORDERED, forms=("usual", "clause", "sentence")),
    "misspelt": Family(misspelt=True),
    "unseen wordings": Family(words=UNSEEN),
    "negated": Family(forms=("clause",), negated=True),
    "negated, two objects": Family(two=True, frames=TWO, forms=("usual", "clause"), negated=True),
}

SEEN_FAMILIES = tuple(name for name, family in FAMILIES.items() if family.words == SEEN and family.fillers == SEEN_FILLER_WORDS)


def pick(draw: np.random.Generator, options: Sequence[Option]) -> Option:
    """One of the options, each as likely."""
    return options[int(draw.integers(len(options)))]


def misspell(text: str, draw: np.random.Generator) -> str:
    """One word of at least four letters with an inner letter doubled, left out, or swapped with the next one."""
    words = text.split()
    index = pick(draw, [index for index, word in enumerate(words) if len(word) >= 4])
    word = words[index]
    place = int(draw.integers(1, len(word) - 2))
    slips = (word[place] * 2, "", word[place + 1] + word[place])
    kind = int(draw.integers(3))
    words[index] = word[:place] + slips[kind] + word[place + (2 if kind == 2 else 1) :]
    return " ".join(words)


def _fire(wording: str, form: str, spell: Callable[[str], str]) -> Said:
    text = spell(wording)
    joined = {"clause": f" that is {text}", "aside": f", {text},", "sentence": f". it is {text}", "usual": f" {text}"}
    return Said(text) if form == "usual" and wording in FIRE_ADJECTIVES else Said(after=joined[form])


def _calm(family: Family, draw: np.random.Generator) -> Said:
    if not family.negated:
        return Said(pick(draw, ("", "", "plain")))
    return Said(after=pick(draw, ABSENCES) if draw.random() < 0.3 else pick(draw, DENIALS).format(pick(draw, family.words.fire)))


def _filler(most: int, words: tuple[str, ...], draw: np.random.Generator) -> str:
    return " ".join(pick(draw, words) for _ in range(draw.integers(1, most + 1))) if most else ""


def choose(family: Family, draw: np.random.Generator) -> Wording:
    """A random wording of the family. It draws the same numbers whatever the scene."""
    frame = pick(draw, family.frames)

    def spell(text: str) -> str:
        return misspell(text, draw) if family.misspelt else text

    def fire() -> Said:
        form = pick(draw, family.forms)
        fits = form != "sentence" or frame in REORDERED
        return _fire(pick(draw, family.words.fire), form if fits else "clause", spell)

    phrase = pick(draw, family.words.styles)
    return Wording(
        frame=frame,
        fire=(fire(), fire()),
        calm=(_calm(family, draw), _calm(family, draw)),
        article=pick(draw, family.articles),
        word_first=bool(draw.random() < 0.5),
        terse=bool(draw.random() < 0.5),
        opening=pick(draw, family.openings),
        star=spell(pick(draw, family.words.stars)),
        styles=tuple((style, phrase.format(spell(pick(draw, names)))) for style, names in STYLE_NAMES.items()),
        filler_before=_filler(family.filler_before, family.fillers, draw),
        filler_after=_filler(family.filler_after, family.fillers, draw),
        ending=pick(draw, family.endings),
        upper=family.upper,
    )


def random_family(draw: np.random.Generator, *, two: bool) -> Family:
    """Any mixture of what the families above do, with every word: the captions that the generator learns from."""
    free = draw.random(8)
    usual, others = (TWO, (*TWO_REORDERED, *TWO_SENTENCES, *TWO_LIST)) if two else (PLAIN, (*REORDERED, *ONE_LIST))
    return Family(
        two=two,
        frames=others if free[0] < 0.4 else usual,
        forms=("clause", "aside", "sentence") if free[1] < 0.4 else ("usual",),
        words=ALL,
        articles=("a", "the", "one", "") if free[2] < 0.2 else ("a",),
        openings=OPENINGS if free[3] < 0.2 else ("",),
        endings=ENDINGS if free[4] < 0.25 else ("",),
        filler_before=6 if free[5] < 0.25 else 0,
        filler_after=15 if free[6] < 0.25 else 0,
        fillers=FILLER_WORDS,
        negated=bool(draw.random() < 0.25),
        misspelt=bool(free[7] < 0.15),
    )


def random_caption(scene: Scene, draw: np.random.Generator) -> str:
    """One of the scene's captions, in any wording."""
    return write(scene, choose(random_family(draw, two=scene.second is not None), draw))
