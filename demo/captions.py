"""From a scene and a wording to a caption. A wording says nothing about what is shown, so that two scenes can share one.

A fire phrase belongs to the noun right before it; of two objects the first named stands on the left.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from demo.scene import CENTRE, Scene, Thing
from demo.wordings import FIRE_ADJECTIVES, FIRE_WORDS


@dataclass(frozen=True)
class Said:
    """What a caption says of an object: an adjective before its colour, or words after its shape with what parts them."""

    before: str = ""
    after: str = ""


@dataclass(frozen=True)
class Wording:
    """Every choice that a scene leaves open. Pairs have one entry for each object, from left to right.

    Attributes:
        frame: the order, of `{first}`, `{second}` and `{place}`.
        fire: said of an object that burns.
        calm: said of an object that does not.
        article: before each object, or "".
        word_first: whether the adjective comes before the size.
        terse: whether the default place and background are left out.
        opening: such as "a picture of", or "".
        star: the noun for a star.
        styles: a phrase for each style.
        filler_before, filler_after: words that say nothing.
        ending: punctuation at the end.
        upper: whether all is upper case.
    """

    frame: str = "{first} {place}"
    fire: tuple[Said, Said] = (Said("burning"), Said("burning"))
    calm: tuple[Said, Said] = (Said(), Said())
    article: str = "a"
    word_first: bool = True
    terse: bool = False
    opening: str = ""
    star: str = "star"
    styles: tuple[tuple[str, str], ...] = ()
    filler_before: str = ""
    filler_after: str = ""
    ending: str = ""
    upper: bool = False


def _noun(thing: Thing, size: str, said: Said, wording: Wording) -> str:
    order = (said.before, size) if wording.word_first else (size, said.before)
    shape = wording.star if thing.shape == "star" else thing.shape
    return " ".join(part for part in (wording.article, *order, thing.colour, shape) if part) + said.after


def _place(scene: Scene, terse: bool) -> str:
    if scene.second or (terse and scene.place == CENTRE):
        return "" if terse and scene.background == "grey" else f"on a {scene.background} background"
    return f"{scene.place} a {scene.background} background"


def write(scene: Scene, wording: Wording) -> str:
    """The caption of `scene` in this `wording`."""
    nouns = [
        _noun(thing, scene.size, fire if thing.burning else calm, wording)
        for thing, fire, calm in zip(scene.things, wording.fire, wording.calm, strict=False)
    ]
    text = wording.frame.format(first=nouns[0], second=nouns[-1], place=_place(scene, wording.terse))
    style = dict(wording.styles)[scene.style] if scene.style else ""
    text = " ".join((wording.filler_before, wording.opening, text, style, wording.filler_after))
    text = re.sub(r"([,;.] ?)+", r"\1", re.sub(r"\s+([,;.])", r"\1", re.sub(r"\s+", " ", text)))
    text = re.sub(r"\ba(?= [aeiou])", "an", text).strip(" ,;.") + wording.ending
    return text.upper() if wording.upper else text


def caption(scene: Scene, word: str = "", *, word_first: bool = True, terse: bool = False) -> str:
    """Plain caption of one object; `word` is one of FIRE_WORDS when it burns, "" or "plain" when it does not.

    Raises:
        ValueError: the word does not say what the scene shows.
    """
    if scene.burning != (word in FIRE_WORDS) or word not in (*FIRE_WORDS, "plain", ""):
        raise ValueError(f"caption word {word!r} does not describe a scene with burning={scene.burning}")
    said = Said(after=f" {word}") if word in FIRE_WORDS and word not in FIRE_ADJECTIVES else Said(word)
    return write(scene, Wording(fire=(said, said), calm=(said, said), word_first=word_first, terse=terse))
