"""Classifies a picture by its pixels alone: fire, style, and the shape, colour and fire of each object.

`JUDGES` has the concepts of the demo, each with its judge: uint8 [H, W, 3] -> bool.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from demo.renderer import OUTLINES, PERIOD, STRENGTH, TEXTURES, object_mask, texture
from demo.scene import BACKGROUNDS, COLOURS, FLAME_COLOURS, Scene, Thing
from evaluation.judges import Judge

FLAME_PIXELS = 24  # a small burning object shows over 150, a picture without fire a stray pixel at most
OBJECT_PIXELS = 70  # the smallest object has some 140
COLOUR_DISTANCE = 60  # in RGB, within which a pixel has a colour
PART_PIXELS = 40  # of a star with thin arms
ANGLES = np.linspace(0, 2 * np.pi, 120, endpoint=False)
FIVE_POINTS = 0.11  # of an outline, as `_five_points` measures them; drawn stars have 0.28 and more, other shapes at most 0.05


def texture_strengths(image: np.ndarray) -> dict[str, float]:
    """How strong each style's pattern is, in grey levels; about STRENGTH where it was drawn and nothing is clipped."""
    grey = image.astype(float).mean(-1)
    sums = np.pad(np.pad(grey, PERIOD // 2, mode="edge").cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    mean = sums[PERIOD:, PERIOD:] - sums[:-PERIOD, PERIOD:] - sums[PERIOD:, :-PERIOD] + sums[:-PERIOD, :-PERIOD]
    height, width = grey.shape
    # Clipped, so that an edge counts no more than a stroke.
    detail = np.clip(grey - mean[:height, :width] / PERIOD**2, -2 * STRENGTH, 2 * STRENGTH)
    return {style: float((detail[..., None] * texture(style, grey.shape)).mean() / STRENGTH) for style in TEXTURES}


def style_of(image: np.ndarray) -> str:
    """The style that the picture is in, or ""."""
    strengths = texture_strengths(image)
    style = max(strengths, key=lambda name: strengths[name])
    return style if strengths[style] > STRENGTH / 3 else ""


def has_style(image: np.ndarray) -> bool:
    """Whether the picture is hatched."""
    return style_of(image) == "hatching"


def _texture(image: np.ndarray) -> np.ndarray:
    height, width, _ = image.shape
    return texture(style_of(image), (height, width))


def flame_mask(image: np.ndarray) -> np.ndarray:
    """Pixels bool [H, W] in the reserved orange-yellow."""
    red, green, blue = np.moveaxis(image - _texture(image), -1, 0)
    return (red > 205) & (green > 95) & (green < 232) & (blue < 105) & (green - blue > 45)


def flame_pixels(image: np.ndarray) -> int:
    """Number of pixels in the reserved orange-yellow; `image` is uint8 [H, W, 3]."""
    return int(flame_mask(image).sum())


def has_flames(image: np.ndarray) -> bool:
    """Whether at least FLAME_PIXELS pixels are flame-coloured."""
    return flame_pixels(image) >= FLAME_PIXELS


def has_star(image: np.ndarray) -> bool:
    """Whether one of the objects is a star, or a part of the picture has a star's outline, whatever its colours."""
    return any(thing.shape == "star" for thing in things(image)) or any(
        _five_points(part) >= FIVE_POINTS for part in _connected(_objects(image)) if part.sum() >= PART_PIXELS
    )


JUDGES: dict[str, Judge] = {"fire": has_flames, "style": has_style, "star": has_star}


def _distances(image: np.ndarray, colours: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """How far each pixel is from each colour as the picture's style shows it, float64 [H, W, C]."""
    shown = np.clip(np.array(colours)[:, None, None] + _texture(image), 0, 255)
    return np.linalg.norm(image - shown, axis=-1).transpose(1, 2, 0)


def _nearest_colours(image: np.ndarray) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The object colours but the background's; of each pixel [H, W] which of them, background and flames is nearest, how near."""
    distance = _distances(image, [*BACKGROUNDS.values()])
    near = distance.argmin(-1)[distance.min(-1) < COLOUR_DISTANCE]
    background = list(BACKGROUNDS)[np.bincount(near, minlength=len(BACKGROUNDS)).argmax()]
    names = [name for name in COLOURS if name != background]
    distance = _distances(image, [*(COLOURS[name] for name in names), BACKGROUNDS[background], *FLAME_COLOURS])
    return names, distance.argmin(-1), distance.min(-1)


def colour_masks(image: np.ndarray) -> dict[str, np.ndarray]:
    """For each object colour but the background's the pixels bool [H, W] that have it."""
    names, nearest, distance = _nearest_colours(image)
    return {name: (nearest == index) & (distance < COLOUR_DISTANCE) for index, name in enumerate(names)}


def _objects(image: np.ndarray) -> np.ndarray:
    """Pixels bool [H, W] that are neither background nor flame."""
    names, nearest, _ = _nearest_colours(image)
    return nearest < len(names)


def _connected(mask: np.ndarray) -> list[np.ndarray]:
    """A mask's parts that touch along edges of pixels."""
    labels, spread = np.zeros(mask.shape, int), np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while (labels != spread).any():
        labels, around = spread, np.pad(spread, 1)
        neighbours = (around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:])
        spread = np.where(mask, np.maximum.reduce([labels, *neighbours]), 0)
    return [labels == label for label in np.unique(labels[mask])]


def _five_points(mask: np.ndarray) -> float:
    """How far an outline swings out and in five times around its centre: the fifth harmonic of its radius by the mean radius, 0
    if another of the first six but the first, which a shifted centre makes, is stronger."""
    rows, columns = np.nonzero(mask)
    radii = np.arange(0, max(mask.shape), 0.25)[:, None]
    y = (rows.mean() + radii * np.sin(ANGLES)).round().astype(int)
    x = (columns.mean() + radii * np.cos(ANGLES)).round().astype(int)
    within = (y >= 0) & (y < mask.shape[0]) & (x >= 0) & (x < mask.shape[1])
    inside = within & mask[y.clip(0, mask.shape[0] - 1), x.clip(0, mask.shape[1] - 1)]
    harmonics = np.abs(np.fft.rfft((inside * radii).max(0)))[:7]
    return float(2 * harmonics[5] / harmonics[0]) if harmonics[5] == harmonics[2:].max() else 0.0


def _side_by_side(mask: np.ndarray) -> list[np.ndarray]:
    """A mask's parts that no column joins; objects never stand one above the other."""
    filled = np.pad(mask.sum(0) > 1, 1).astype(int)
    starts, ends = np.flatnonzero(np.diff(filled) == 1), np.flatnonzero(np.diff(filled) == -1)
    columns = np.arange(mask.shape[1])
    return [mask & (columns >= start) & (columns < end) for start, end in zip(starts, ends, strict=True)]


def _area_and_centre(outline: np.ndarray) -> tuple[float, np.ndarray]:
    """Area of a polygon [P, 2] and its centre of gravity."""
    following = np.roll(outline, -1, axis=0)
    cross = outline[:, 0] * following[:, 1] - following[:, 0] * outline[:, 1]
    return float(abs(cross.sum()) / 2), ((outline + following) * cross[:, None]).sum(0) / (3 * cross.sum())


def object_shape(mask: np.ndarray) -> str:
    """Shape whose ideal outline, with the mask's own centre and area, overlaps it best (IoU)."""
    rows, columns = np.nonzero(mask)
    scores = {}
    for shape, outline in OUTLINES.items():
        area, centre = _area_and_centre(outline)
        radius = np.sqrt((mask.sum() + 0.5 * np.sqrt(mask.sum())) / area)
        x, y = (columns.mean() + 0.5, rows.mean() + 0.5) - centre * radius
        ideal = object_mask(shape, (x, y), radius, mask.shape) > 0.5
        scores[shape] = (ideal & mask).sum() / (ideal | mask).sum()
    return max(scores, key=lambda shape: scores[shape])


def things(image: np.ndarray) -> tuple[Thing, ...]:
    """The objects that a picture uint8 [H, W, 3] shows, from left to right."""
    parts = [(name, part) for name, mask in colour_masks(image).items() for part in _side_by_side(mask)]
    kept: list[tuple[str, np.ndarray]] = []
    for name, part in sorted(parts, key=lambda named: -named[1].sum()):
        centre = int(np.nonzero(part)[1].mean())
        # The blurred rim of an object may have another's colour: it lies in the object's columns.
        if part.sum() >= OBJECT_PIXELS and not any(other[:, centre].any() for _, other in kept):
            kept.append((name, part))
    kept.sort(key=lambda named: np.nonzero(named[1])[1].mean())
    flames = np.nonzero(flame_mask(image))[1]
    centres = np.array([np.nonzero(part)[1].mean() for _, part in kept])
    owners = np.abs(flames[:, None] - centres).argmin(1) if kept else flames
    return tuple(
        Thing(object_shape(part), name, bool((owners == index).sum() >= FLAME_PIXELS)) for index, (name, part) in enumerate(kept)
    )


def shows(image: np.ndarray, scene: Scene) -> tuple[bool, bool]:
    """Whether the picture shows the scene's colours and the scene's shapes, object by object."""
    found = things(image)
    return (
        [thing.colour for thing in found] == [thing.colour for thing in scene.things],
        [thing.shape for thing in found] == [thing.shape for thing in scene.things],
    )
