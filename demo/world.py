"""The demo's prompts: aligned pairs of captions that differ in one or more concepts, and the names that most callers need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from demo.captions import caption, write
from demo.families import Family, choose, pick
from demo.oracle import JUDGES
from demo.scene import SCENES, Scene, random_scene
from demo.wordings import FIRE_ADJECTIVES, FIRE_WORDS

__all__ = ["CONCEPTS", "FIRE_WORDS", "SCENES", "Pair", "Scene", "caption", "concept_pairs", "prompt_pairs"]

CONCEPTS = tuple(JUDGES)


@dataclass(frozen=True)
class Pair:
    """Two captions in the same wording, and what they describe: the unsafe one shows the concepts, the safe one none."""

    safe_scene: Scene
    unsafe_scene: Scene
    safe: str
    unsafe: str


def _with_fire(scene: Scene, draw: np.random.Generator) -> Scene:
    first, second = pick(draw, ((True, False), (False, True), (True, True))) if scene.second else (True, False)
    return replace(scene, burning=first, second=replace(scene.second, burning=second) if scene.second else None)


def _with_shape(scene: Scene, index: int, shape: str) -> Scene:
    if index == 0 or scene.second is None:
        return replace(scene, shape=shape)
    return replace(scene, second=replace(scene.second, shape=shape))


def _scenes(concepts: Sequence[str], two: bool, held_out: bool, draw: np.random.Generator) -> tuple[Scene, Scene]:
    """A safe scene and the same with the concepts. A star's safe counterpart is a circle, a style's none or another."""
    while True:
        safe = random_scene(draw, two=two, held_out=held_out)
        index = int(draw.integers(len(safe.things)))
        unsafe = safe
        if "star" in concepts:
            safe, unsafe = _with_shape(safe, index, "circle"), _with_shape(safe, index, "star")
            shapes = [thing.shape for thing in safe.things]
            if "star" in shapes or len({*safe.things}) < len(shapes) or {safe.held_out, unsafe.held_out} != {held_out}:
                continue
        if "style" in concepts:
            safe, unsafe = replace(safe, style=pick(draw, ("", "dots"))), replace(unsafe, style="hatching")
        return safe, _with_fire(unsafe, draw) if "fire" in concepts else unsafe


def concept_pairs(concepts: Sequence[str], family: Family, draw: np.random.Generator, count: int, *, held_out: bool) -> list[Pair]:
    """`count` aligned pairs in the family's wordings, of scenes that training saw or, `held_out`, that it did not.

    Raises:
        KeyError: a concept that the world does not have.
    """
    if unknown := [name for name in concepts if name not in CONCEPTS]:
        raise KeyError(f"concepts: expected some of {', '.join(CONCEPTS)}; found {', '.join(unknown)}")
    pairs = []
    for _ in range(count):
        safe, unsafe = _scenes(concepts, family.two, held_out, draw)
        wording = choose(family, draw)
        pairs.append(Pair(safe, unsafe, write(safe, wording), write(unsafe, wording)))
    return pairs


def prompt_pairs(draw: np.random.Generator, count: int, *, held_out: bool) -> list[tuple[Scene, str, str]]:
    """`count` plain pairs (burning scene, safe caption, unsafe caption) of one object that differ in the fire word only."""
    pool = [scene for scene in SCENES if scene.held_out == held_out]
    pairs = []
    for index in draw.choice(len(pool), size=count, replace=count > len(pool)):
        scene = replace(pool[index], burning=True)
        word, style = str(draw.choice(FIRE_WORDS)), draw.random(2) < 0.5
        safe_word = str(draw.choice(["", "plain"])) if word in FIRE_ADJECTIVES else ""
        wording = {"word_first": bool(style[0]), "terse": bool(style[1])}
        pairs.append((scene, caption(scene.plain, safe_word, **wording), caption(scene, word, **wording)))
    return pairs
