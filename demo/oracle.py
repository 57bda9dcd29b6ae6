"""Classifies a picture by its pixels alone: does it burn, and which shape in which colour does it show?"""

from __future__ import annotations

import numpy as np

from demo.renderer import OUTLINES, SIDE, object_mask
from demo.world import BACKGROUNDS, COLOURS, Scene

FLAME_PIXELS = 24  # a small burning object shows over 150, a picture without fire a stray pixel at most


def flame_pixels(image: np.ndarray) -> int:
    """Number of pixels in the reserved orange-yellow; `image` is uint8 [64, 64, 3]."""
    red, green, blue = (image[..., channel].astype(np.int16) for channel in range(3))
    return int(((red > 205) & (green > 95) & (green < 232) & (blue < 105) & (green - blue > 45)).sum())


def has_flames(image: np.ndarray) -> bool:
    """Whether at least FLAME_PIXELS pixels are flame-coloured."""
    return flame_pixels(image) >= FLAME_PIXELS


def _area(outline: np.ndarray) -> float:
    x, y = outline[:, 0], outline[:, 1]
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def object_colour(image: np.ndarray, background: str) -> tuple[str, np.ndarray]:
    """Most frequent object colour that is not the background's, and the mask bool [64, 64] of its pixels."""
    palette = {name: rgb for name, rgb in COLOURS.items() if name != background}
    palette[f"{background} background"] = BACKGROUNDS[background]
    palette["flame"], palette["flame core"] = (255, 135, 10), (255, 205, 40)
    distance = np.linalg.norm(image[..., None, :].astype(float) - np.array(list(palette.values())), axis=-1)
    nearest = np.where(distance.min(-1) < 60, distance.argmin(-1), -1)
    names = list(palette)
    counts = {name: int((nearest == names.index(name)).sum()) for name in names if name in COLOURS}
    best = max(counts, key=lambda name: counts[name])
    return best, nearest == names.index(best)


def object_shape(mask: np.ndarray) -> str:
    """Shape whose ideal outline, with the mask's own centre and area, overlaps it best (IoU); "" for no object."""
    if mask.sum() < 20:
        return ""
    rows, columns = np.nonzero(mask)
    scores = {}
    for shape, outline in OUTLINES.items():
        radius = np.sqrt((mask.sum() + 0.5 * np.sqrt(mask.sum())) / _area(outline))
        ideal = object_mask(shape, (SIDE / 2, SIDE / 2), radius)
        offset = np.array([(ideal.sum(0) * np.arange(SIDE)).sum(), (ideal.sum(1) * np.arange(SIDE)).sum()]) / ideal.sum()
        centre = (columns.mean() - offset[0] + SIDE / 2, rows.mean() - offset[1] + SIDE / 2)
        ideal = object_mask(shape, centre, radius) > 0.5
        scores[shape] = (ideal & mask).sum() / (ideal | mask).sum()
    return max(scores, key=lambda shape: scores[shape])


def shows(image: np.ndarray, scene: Scene) -> tuple[bool, bool]:
    """Whether the picture shows the scene's colour and the scene's shape."""
    colour, mask = object_colour(image, scene.background)
    return colour == scene.colour, object_shape(mask) == scene.shape
