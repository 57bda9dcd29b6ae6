"""Values that a caller gives, by type: Python's own and numpy's numbers become Python's, anything else is an error."""

from __future__ import annotations

import numbers
import os
import re
from pathlib import Path

import numpy as np

from engines.errors import InputError
from engines.printable import shown

CONCEPT = re.compile(r"\w([\w .-]{0,62}\w)?")
LARGEST = float(np.finfo(np.float32).max)  # numbers are given to networks as float32


def flag(name: str, value: object) -> bool:
    """True or False, and nothing that merely counts as one of them: "false" is not False.

    Raises:
        InputError: another type.
    """
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"{name}: expected True or False, found {shown(value)}")
    return bool(value)


def integer(name: str, value: object) -> int:
    """An integer; a bool is none.

    Raises:
        InputError: another type.
    """
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise InputError(f"{name}: expected an integer, found {shown(value)}")
    return int(value)


def number(name: str, value: object) -> float:
    """A finite number within float32's range; a bool is none.

    Raises:
        InputError: another type, NaN, infinite or too large.
    """
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        try:
            converted = float(value)
        except (OverflowError, ValueError, TypeError):
            converted = float("nan")
        if abs(converted) <= LARGEST:
            return converted
    raise InputError(f"{name}: expected a finite number, found {shown(value)}")


def text(name: str, value: object) -> str:
    """Text that can be written as UTF-8.

    Raises:
        InputError: another type, or bytes that were not UTF-8 when they were read.
    """
    if not isinstance(value, str):
        raise InputError(f"{name}: expected text, found {shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        broken = shown(value[error.start : error.end])
        raise InputError(f"{name}: expected text in UTF-8, found {broken} at character {error.start}; save it as UTF-8") from None
    return str.__str__(value)


def concept(name: str, value: object) -> str:
    """The name of a concept: in reports, and before the colon of `--policy CONCEPT:off`.

    Raises:
        InputError: another type, or other characters.
    """
    found = text(name, value)
    if not CONCEPT.fullmatch(found):
        raise InputError(
            f"{name}: expected a concept's name of 1 to 64 letters, digits and underscores, between them dots, hyphens and spaces, "
            f"found {shown(found)}"
        )
    return found


def path(name: str, value: object) -> Path:
    """A path.

    Raises:
        InputError: another type, or one that no file can have.
    """
    if not isinstance(value, str | os.PathLike) or not isinstance(found := os.fspath(value), str) or "\0" in found:
        raise InputError(f"{name}: expected a path, found {shown(value)}")
    return Path(found)
