"""What a picture of the demo's world shows: one object or two on a background, burning or not, perhaps in a style."""

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
}  # centre of a lone object, pixels
CENTRE = "in the centre of"
TWO_RADIUS = 8.5  # of each of two objects, so that their flames do not touch
TWO_CENTRES = ((16, 36), (48, 36))
FLAME_COLOURS = ((255, 135, 10), (255, 205, 40))  # outer, inner; no other colour of the world comes near
STYLES = ("", "hatching", "dots")  # none, the one to forget, one that stays
STYLE_SHARES = (0.7, 0.2, 0.1)  # in training


@dataclass(frozen=True)
class Thing:
    """One object. `colour` is a key of COLOURS."""

    shape: str
    colour: str
    burning: bool = False


@dataclass(frozen=True)
class Scene:
    """What one picture shows. `place` is a key of PLACES, `size` a key of SIZES, `style` one of STYLES.

    With a `second` object, the first stands on the left and the second on the right, both of middle size.
    """

    shape: str
    colour: str
    size: str = ""
    place: str = CENTRE
    background: str = "grey"
    burning: bool = False
    second: Thing | None = None
    style: str = ""

    @property
    def things(self) -> tuple[Thing, ...]:
        """Its objects, from left to right."""
        first = Thing(self.shape, self.colour, self.burning)
        return (first, self.second) if self.second else (first,)

    @property
    def held_out(self) -> bool:
        """One combination in ten is never shown in training, whether it burns or not and whatever its style."""
        key = f"{self.shape}|{self.colour}|{self.size}|{self.place}|{self.background}"
        if self.second:
            key += f"|{self.second.shape}|{self.second.colour}"
        return hashlib.sha256(key.encode()).digest()[0] < 26

    @property
    def plain(self) -> Scene:
        """The safe counterpart: the same scene, nothing burning."""
        return replace(self, burning=False, second=replace(self.second, burning=False) if self.second else None)


SCENES = tuple(Scene(*parts) for parts in itertools.product(SHAPES, COLOURS, SIZES, PLACES, BACKGROUNDS) if parts[1] != parts[4])


def random_scene(draw: np.random.Generator, *, two: bool, held_out: bool) -> Scene:
    """A scene without fire and style, of one object or two different ones."""
    while True:
        scene = SCENES[draw.integers(len(SCENES))]
        if two:
            shape, colour = (str(draw.choice(names)) for names in (SHAPES, tuple(COLOURS)))
            scene = replace(scene, size="", place=CENTRE, second=Thing(shape, colour))
            if colour == scene.background or (shape, colour) == (scene.shape, scene.colour):
                continue
        if scene.held_out == held_out:
            return scene


def training_scenes(draw: np.random.Generator, count: int) -> list[Scene]:
    """Random scenes that are not held out: half with two objects, half of all objects burning, three in ten in a style."""
    scenes = []
    for _ in range(count):
        scene = random_scene(draw, two=bool(draw.random() < 0.5), held_out=False)
        burning, style = draw.random(2) < 0.5, str(draw.choice(STYLES, p=STYLE_SHARES))
        second = replace(scene.second, burning=bool(burning[1])) if scene.second else None
        scenes.append(replace(scene, burning=bool(burning[0]), second=second, style=style))
    return scenes
