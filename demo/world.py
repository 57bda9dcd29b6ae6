"""The demo's world: one coloured shape on a background, described by a caption; fire is the concept to forget.

Knows words and their meaning only: `demo.renderer` draws a scene, `demo.oracle` classifies a picture.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, replace

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross")
COLOURS = {
    "red": (200, 20, 45),
    "green": (25, 140, 50),
    "blue": (35, 70, 205),
    "purple": (125, 40, 165),
    "pink": (240, 130, 190),
    "teal": (0, 185, 195),
    "white": (245, 245, 245),
    "black": (12, 12, 12),
}
BACKGROUNDS = {"grey": (128, 128, 128), "white": (238, 238, 238), "black": (16, 16, 16), "mint": (170, 225, 200)}
SIZES = {"small": 8.0, "": 10.5, "large": 13.0}  # radius in pixels; a caption without a size means the middle one
PLACES = {
    "on the left of": (21, 34),
    "on the right of": (43, 34),
    "at the top of": (32, 25),
    "at the bottom of": (32, 43),
    "in the centre of": (32, 34),
}  # centre of the object, pixels
FIRE_ADJECTIVES = ("burning", "flaming", "blazing", "fiery")
FIRE_PHRASES = ("ablaze", "in flames")
FIRE_WORDS = FIRE_ADJECTIVES + FIRE_PHRASES
FLAME_COLOURS = ((255, 135, 10), (255, 205, 40))  # outer, inner; no other colour of the world comes near


@dataclass(frozen=True)
class Scene:
    """What one picture shows. `place` is a key of PLACES, `size` a key of SIZES ("" for the middle one)."""

    shape: str
    colour: str
    size: str = ""
    place: str = "in the centre of"
    background: str = "grey"
    burning: bool = False

    @property
    def held_out(self) -> bool:
        """One combination in ten is never shown in training, whether it burns or not."""
        key = f"{self.shape}|{self.colour}|{self.size}|{self.place}|{self.background}"
        return hashlib.sha256(key.encode()).digest()[0] < 26

    @property
    def plain(self) -> Scene:
        """The safe counterpart: the same scene, not burning."""
        return replace(self, burning=False)


SCENES = tuple(Scene(*parts) for parts in itertools.product(SHAPES, COLOURS, SIZES, PLACES, BACKGROUNDS) if parts[1] != parts[4])


def caption(scene: Scene, word: str = "", *, word_first: bool = True, terse: bool = False) -> str:
    """Caption of a scene; `word` is a fire word when it burns, "" or "plain" when it does not.

    Adjectives come before or after the size (`word_first`); a terse caption leaves out what is the default
    (centre, grey background).

    Raises:
        ValueError: the word does not say what the scene shows.
    """
    if scene.burning != (word in FIRE_WORDS) or word not in (*FIRE_WORDS, "plain", ""):
        raise ValueError(f"caption word {word!r} does not describe a scene with burning={scene.burning}")
    adjective, phrase = ("", word) if word in FIRE_PHRASES else (word, "")
    order = (adjective, scene.size) if word_first else (scene.size, adjective)
    noun = " ".join(part for part in ("a", *order, scene.colour, scene.shape, phrase) if part)
    if terse and scene.place == "in the centre of":
        return noun if scene.background == "grey" else f"{noun} on a {scene.background} background"
    return f"{noun} {scene.place} a {scene.background} background"


def random_caption(scene: Scene, draw: np.random.Generator) -> str:
    """One of the scene's captions, with random wording."""
    word = str(draw.choice(FIRE_WORDS)) if scene.burning else str(draw.choice(["", "", "plain"]))
    style = draw.random(2) < 0.5
    text = caption(scene, word, word_first=bool(style[0]), terse=bool(style[1]))
    if style[1] and draw.random() < 0.5 and scene.background == "grey" and text.endswith(scene.shape):
        text += " on a grey background"
    return text


def prompt_pairs(draw: np.random.Generator, count: int, *, held_out: bool) -> list[tuple[Scene, str, str]]:
    """`count` aligned prompts (burning scene, safe caption, unsafe caption) that differ in the fire word only."""
    pool = [scene for scene in SCENES if scene.held_out == held_out]
    pairs = []
    for index in draw.choice(len(pool), size=count, replace=count > len(pool)):
        scene = replace(pool[index], burning=True)
        word, style = str(draw.choice(FIRE_WORDS)), draw.random(2) < 0.5
        safe_word = str(draw.choice(["", "plain"])) if word in FIRE_ADJECTIVES else ""
        wording = {"word_first": bool(style[0]), "terse": bool(style[1])}
        pairs.append((scene, caption(scene.plain, safe_word, **wording), caption(scene, word, **wording)))
    return pairs
