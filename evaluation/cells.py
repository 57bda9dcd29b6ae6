"""Cells of a CSV file, read with their quirks; an error names row and column, and never a cell."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from engines.errors import InputError

LARGEST_CELL = 1 << 20  # characters
LARGEST_SEED = 2**64 - 1
Row = tuple[int, Callable[[str], str]]  # its number, from 1; and its cell of a column


def table(file: Iterable[str]) -> Iterator[list[str]]:
    """Rows of cells, header first, read as they are asked for. Raises csv.Error for broken quotes and cells beyond LARGEST_CELL."""
    csv.field_size_limit(LARGEST_CELL)
    return csv.reader(file, strict=True)


def cells_of(path: Path, header: Sequence[str], rows: Iterable[list[str]]) -> Iterator[Row]:
    """Each row with its number. Empty lines are no rows.

    Raises:
        InputError: a row has more or fewer cells than the header.
    """
    for number, row in enumerate(filter(None, rows), 1):
        if len(row) != len(header):
            raise InputError(f"{path}, row {number}: expected {len(header)} columns, found {len(row)}; docs/evaluation.md")
        yield number, dict(zip(header, row, strict=True)).__getitem__


def whole(cell: str) -> int | None:
    """A whole number, also as pandas writes one beside missing ones ("123.0"); None for anything else."""
    number, _, decimals = cell.strip().partition(".")
    return int(number) if number.isdecimal() and len(number) <= 20 and not decimals.strip("0") else None


def seed_of(cell: str, place: str) -> int | None:
    """A seed; None where the cell is empty or NaN. Raises InputError for another value, with its `place`."""
    if _is_missing(cell):
        return None
    if (seed := whole(cell)) is None or not 0 <= seed <= LARGEST_SEED:
        raise InputError(f"{place}: expected a seed, 0 to {LARGEST_SEED}, or nothing, found another value")
    return seed


def guidance_of(cell: str, place: str) -> float | None:
    """A guidance scale; None where the cell is empty or NaN. Raises InputError for another value, with its `place`."""
    if _is_missing(cell):
        return None
    try:
        scale = float(cell)
    except ValueError:
        scale = math.nan
    if not math.isfinite(scale):
        raise InputError(f"{place}: expected a number or nothing, found another value")
    return scale


def _is_missing(cell: str) -> bool:
    return cell.strip().lower() in ("", "nan", "none")
