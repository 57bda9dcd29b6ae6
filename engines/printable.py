"""Text from prompts, manifests and model files, made safe to print: it cannot move a terminal's cursor or hide what follows."""

from __future__ import annotations

from collections.abc import Sequence

LONGEST = 200  # characters of a value in an error message
SHOWN = 5  # items of a list in an error message


def printable(text: str) -> str:
    """`text` in one line, with Python's escape sequence for each character that a terminal would not show as it is."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def shown(value: object) -> str:
    """Any value for an error message: its repr in one line, cut where it is long."""
    try:
        text = printable(repr(value))
    except Exception:  # an object whose repr fails
        text = f"a {type(value).__name__}"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text)} characters)"


def shortened(items: Sequence[str]) -> str:
    """The first five of a list in one line, and how many more there are."""
    more = len(items) - SHOWN
    return printable("; ".join(items[:SHOWN])) + (f"; and {more} more" if more > 0 else "")
