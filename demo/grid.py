"""Rows of the demo's pictures as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from evaluation.grid import crossed_tile

MARGIN, LINE = 6, 14  # pixels between pictures; of a line of text


@dataclass(frozen=True, eq=False)
class Row:
    """Pictures uint8 [H, W, 3] side by side, None for one that was withheld, under a title, if any."""

    pictures: Sequence[np.ndarray | None]
    title: str = ""


def picture_grid(rows: Sequence[Row], side: int = 64) -> Image.Image:
    """The rows, each picture `side` pixels wide and high. A withheld one is a crossed grey tile."""
    width = max(len(row.pictures) for row in rows) * (side + MARGIN) - MARGIN
    height = sum(side + MARGIN + (LINE if row.title else 0) for row in rows) - MARGIN
    canvas, top = Image.new("RGB", (width, height), "white"), 0
    pen = ImageDraw.Draw(canvas)
    for row in rows:
        if row.title:
            pen.text((0, top), row.title, "black")
            top += LINE
        for column, pixels in enumerate(row.pictures):
            canvas.paste(_tile(pixels, side), (column * (side + MARGIN), top))
        top += side + MARGIN
    return canvas


def _tile(pixels: np.ndarray | None, side: int) -> Image.Image:
    if pixels is None:
        return crossed_tile(side)
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)
