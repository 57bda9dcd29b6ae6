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


def _with_fire(scene: Scene, burning: tuple[bool, bool]) -> Scene:
    return replace(scene, burning=burning[0], second=replace(scene.second, burning=burning[1]) if scene.second else None)


def _with_shape(scene: Scene, index: int, shape: str) -> Scene:
    if index == 0 or scene.second is None:
        return replace(scene, shape=shape)
    return replace(scene, second=replace(scene.second, shape=shape))


def _shapes(
    concepts: Sequence[str], kept: Sequence[str], two: bool, held_out: bool, draw: np.random.Generator
) -> tuple[Scene, Scene]:
    """A safe scene and the same with a star in the place of a circle, if stars are among the concepts. `held_out`: one is."""
    while True:
        safe = random_scene(draw, two=two, held_out=held_out)
        index = int(draw.integers(len(safe.things)))
        if "star" in concepts:
            unsafe = _with_shape(safe, index, "star")
            safe = _with_shape(safe, index, "circle")
        else:
            safe = unsafe = _with_shape(safe, index, "star") if "star" in kept else safe
        repeated = len({*safe.things}) < len(safe.things)
        remains = "star" in concepts and any(thing.shape == "star" for thing in safe.things)
        if not (repeated or remains) and (safe.held_out or unsafe.held_out) == held_out:
            return safe, unsafe


def _scenes(
    concepts: Sequence[str], kept: Sequence[str], two: bool, held_out: bool, draw: np.random.Generator
) -> tuple[Scene, Scene]:
    """A safe scene and the same with the concepts, both with the kept ones. A star's safe counterpart is a circle, a style's none
    or another."""
    safe, unsafe = _shapes(concepts, kept, two, held_out, draw)
    if "style" in concepts:
        safe, unsafe = replace(safe, style=pick(draw, ("", "dots"))), replace(unsafe, style="hatching")
    elif "style" in kept:
        safe, unsafe = replace(safe, style="hatching"), replace(unsafe, style="hatching")
    if "fire" in concepts or "fire" in kept:
        burning = pick(draw, ((True, False), (False, True), (True, True))) if two else (True, False)
        safe, unsafe = _with_fire(safe, burning) if "fire" in kept else safe, _with_fire(unsafe, burning)
    return safe, unsafe


def concept_pairs(
    concepts: Sequence[str], family: Family, draw: np.random.Generator, count: int, *, held_out: bool, kept: Sequence[str] = ()
) -> list[Pair]:
    """`count` aligned pairs in the family's wordings, of scenes that training saw or, `held_out`, that it did not: no guard saw
    such a pair, and the generator one of its pictures at most.

    Unsafe captions show the concepts, safe ones do not; both show the `kept` ones, which are others.

    Raises:
        KeyError: a concept that the world does not have.
        ValueError: a concept that is kept and not kept.
    """
    if unknown := [name for name in (*concepts, *kept) if name not in CONCEPTS]:
        raise KeyError(f"concepts: expected some of {', '.join(CONCEPTS)}; found {', '.join(unknown)}")
    if both := {*concepts} & {*kept}:
        raise ValueError(f"kept: expected other concepts than {', '.join(concepts)}; found {', '.join(sorted(both))}")
    pairs = []
    for _ in range(count):
        safe, unsafe = _scenes(concepts, kept, family.two, held_out, draw)
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
