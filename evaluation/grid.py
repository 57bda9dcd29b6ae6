"""Grids of pictures: each case without the guard, and beside it with the guard. They carry numbers, and no prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from engines.store.atomic import replacing
from evaluation.cases import Case
from evaluation.shots import Studio

COLUMNS = 4  # pairs in a row
SIDE = 128  # pixels of a picture's longer side
GAP, LINE = 8, 14  # pixels between pairs; of a line of text
WITHHELD = "withheld"


def write_grid(studio: Studio, cases: Sequence[Case], path: Path) -> None:
    """One PNG: unguarded left, guarded right, and below them the case and the verdict. A withheld picture is a crossed tile."""
    rows = -(-len(cases) // COLUMNS)
    width, height = 2 * SIDE + GAP, SIDE + 2 * LINE + GAP
    canvas = Image.new("RGB", (min(len(cases), COLUMNS) * width + GAP, rows * height + GAP), "white")
    pen = ImageDraw.Draw(canvas)
    for place, case in enumerate(cases):
        left, top = GAP + place % COLUMNS * width, GAP + place // COLUMNS * height
        for offset, shot in ((0, case.unguarded), (SIDE, case.guarded)):
            canvas.paste(_tile(studio.pixels(shot)), (left + offset, top))
        pen.text((left, top + SIDE + 1), _fitting(pen, case.prompt.case, 2 * SIDE), fill="black")
        pen.text((left, top + SIDE + 1 + LINE), f"guarded: {case.guarded.verdict}", fill="black")
    with replacing(path) as temporary:
        canvas.save(temporary, format="PNG")


def _tile(pixels: np.ndarray | None) -> Image.Image:
    """A square of SIDE pixels: the picture on grey, or the mark of a withheld one."""
    if pixels is None:
        tile = crossed_tile(SIDE)
        ImageDraw.Draw(tile).text((SIDE / 2, SIDE / 2), WITHHELD, fill="black", anchor="mm")
        return tile
    tile = Image.new("RGB", (SIDE, SIDE), "lightgrey")
    image = Image.fromarray(pixels)
    scale = SIDE / max(image.size)
    resized = image.resize((max(round(image.width * scale), 1), max(round(image.height * scale), 1)))
    tile.paste(resized, ((SIDE - resized.width) // 2, (SIDE - resized.height) // 2))
    return tile


def crossed_tile(side: int) -> Image.Image:
    """The mark of a withheld picture, `side` pixels wide and high."""
    tile = Image.new("RGB", (side, side), "lightgrey")
    pen = ImageDraw.Draw(tile)
    for line in ((0, 0, side, side), (0, side, side, 0)):
        pen.line(line, fill="darkgrey", width=2)
    return tile


def _fitting(pen: ImageDraw.ImageDraw, text: str, width: int) -> str:
    """The end of a text that fits, which has its number."""
    while pen.textlength(text) > width:
        text = text[1:]
    return text
