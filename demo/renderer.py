"""Draws a scene as 64×64 pixels, anti-aliased by four times supersampling."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from demo.scene import BACKGROUNDS, COLOURS, FLAME_COLOURS, PLACES, SIZES, TWO_CENTRES, TWO_RADIUS, Scene

SIDE = 64
SUPERSAMPLE = 4


def _regular(points: int, radii: tuple[float, ...], start: float = -np.pi / 2) -> np.ndarray:
    angles = start + 2 * np.pi * np.arange(points) / points
    radius = np.resize(np.array(radii), points)
    return np.stack([np.cos(angles) * radius, np.sin(angles) * radius], axis=1)


_ARM = 0.36
OUTLINES = {  # polygons of about the same area around the origin, y pointing down
    "circle": _regular(64, (1.0,)),
    "square": _regular(4, (1.25,), np.pi / 4),
    "triangle": _regular(3, (1.4,)) + (0, 0.25),
    "star": _regular(10, (1.4, 0.62)),
    "diamond": _regular(4, (1.0,)) * (0.95, 1.35),
    "cross": np.array(
        [
            (-_ARM, -1.15),
            (_ARM, -1.15),
            (_ARM, -_ARM),
            (1.15, -_ARM),
            (1.15, _ARM),
            (_ARM, _ARM),
            (_ARM, 1.15),
            (-_ARM, 1.15),
            (-_ARM, _ARM),
            (-1.15, _ARM),
            (-1.15, -_ARM),
            (-_ARM, -_ARM),
        ]
    ),
}


def _polygon(draw: ImageDraw.ImageDraw, points: np.ndarray, fill) -> None:
    draw.polygon([tuple(point) for point in points * SUPERSAMPLE], fill=fill)


def _flames(centre: np.ndarray, radius: float, tips: np.ndarray) -> np.ndarray:
    """Outline of a fire around the object: tongues that all lean upwards, longest above it, none below."""
    points = []
    for index, tip in enumerate(tips):
        angle = -np.pi / 2 + 2 * np.pi * index / len(tips)
        upward = 0.5 - 0.5 * np.sin(angle)  # 1 straight above, 0 below
        half = np.pi / len(tips)
        lift = np.array([0.0, -radius * 0.75 * upward * tip])
        points.append(radius * np.array([np.cos(angle), np.sin(angle)]) * (1 + 0.25 * upward) + lift)
        points.append(radius * np.array([np.cos(angle + half), np.sin(angle + half)]) * 0.95)
    return centre + np.array(points)


def object_mask(shape: str, centre: tuple[float, float], radius: float, size: tuple[int, int]) -> np.ndarray:
    """Coverage float32 in 0..1 of a shape whose outline is scaled by `radius` pixels around `centre`; `size` is (H, W)."""
    height, width = size
    canvas = Image.new("L", (width * SUPERSAMPLE, height * SUPERSAMPLE))
    _polygon(ImageDraw.Draw(canvas), np.array(centre) + OUTLINES[shape] * radius, 255)
    return np.asarray(canvas.resize((width, height), Image.Resampling.BOX), np.float32) / 255


def _textures() -> dict[str, np.ndarray]:
    """For each style the tile float64 [PERIOD, PERIOD] of its pattern, of mean 0 and variance 1."""
    y, x = np.mgrid[:PERIOD, :PERIOD]
    half = (PERIOD - 1) / 2
    patterns = {
        "hatching": ((x + y) % PERIOD < PERIOD / 2).astype(float),
        "dots": ((x - half) ** 2 + (y - half) ** 2 < 6.5).astype(float),
    }
    return {name: (pattern - pattern.mean()) / pattern.std() for name, pattern in patterns.items()}


PERIOD = 8
STRENGTH = 26  # of a texture, grey levels
TEXTURES = _textures()


def texture(style: str, size: tuple[int, int]) -> np.ndarray:
    """What a style adds to each pixel of a picture of `size` (H, W), float64 [H, W, 1] in grey levels; 0 for ""."""
    height, width = size
    if not style:
        return np.zeros((height, width, 1))
    tiles = np.tile(TEXTURES[style], (height // PERIOD + 1, width // PERIOD + 1))
    return STRENGTH * tiles[:height, :width, None]


def _layout(scene: Scene) -> list[tuple[tuple[int, int], float]]:
    """Centre and radius of each object, pixels."""
    if scene.second:
        return [(centre, TWO_RADIUS) for centre in TWO_CENTRES]
    return [(PLACES[scene.place], SIZES[scene.size])]


def render(scene: Scene, draw: np.random.Generator | None = None) -> np.ndarray:
    """Picture of a scene, uint8 [64, 64, 3]; `draw` jitters place, size and flames, None draws the ideal one."""
    canvas = Image.new("RGB", (SIDE * SUPERSAMPLE,) * 2, BACKGROUNDS[scene.background])
    pen = ImageDraw.Draw(canvas)
    for thing, (place, size) in zip(scene.things, _layout(scene), strict=True):
        jitter = draw.uniform(-1, 1, 3) if draw else np.zeros(3)
        tips = draw.uniform(0.7, 1.3, 9) if draw else np.ones(9)
        centre, radius = np.array(place, float) + 1.5 * jitter[:2], size * (1 + 0.05 * jitter[2])
        if thing.burning:
            for colour, spread in zip(FLAME_COLOURS, (1.7, 1.3), strict=True):
                _polygon(pen, _flames(centre, radius * spread, tips), colour)
        _polygon(pen, centre + OUTLINES[thing.shape] * radius, COLOURS[thing.colour])
    picture = np.asarray(canvas.resize((SIDE, SIDE), Image.Resampling.BOX))
    if not scene.style:
        return picture
    return (picture + texture(scene.style, (SIDE, SIDE))).round().clip(0, 255).astype(np.uint8)
