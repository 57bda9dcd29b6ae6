"""Conditions: the options under which pictures are made, and what --vary changes of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engines.errors import InputError
from engines.policy import TYPES
from engines.printable import printable, shown

GUARD_ONLY = ("check", "on_unsafe", "on_still_unsafe", *TYPES)  # what a picture without the guard does not depend on
# Every option that a condition can set, with what reads its text.
OPTIONS: dict[str, Callable[[str], Any]] = {
    "scheduler": str,
    "schedule_type": str,
    "num_inference_steps": int,
    "guidance_scale": float,
    "eta": float,
    "clip_skip": int,
    "negative_prompt": str,
    "check": str,
    "on_unsafe": str,
    "on_still_unsafe": str,
    **TYPES,
}
COUNTERPART = "@counterpart"  # a negative prompt: each prompt's own counterpart, the hostile one


@dataclass(frozen=True)
class Condition:
    """Changes of the command's options: (name, value) pairs; none for the options as they are."""

    changes: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        """For a table: "check=before, num_inference_steps=4"."""
        return printable(", ".join(f"{name}={value}" for name, value in self.changes)) or "as given"

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The options of its pictures."""
        return {**given, **dict(self.changes)}


def conditions(vary: Sequence[Sequence[str]], cross: bool = False) -> list[list[Condition]]:
    """Tables of conditions, from lists of a name and its values: first the options as given, then one table for each list.

    With `cross`, one table with every combination in place of these.

    Raises:
        InputError: a name or a value that no option has, or a name that comes twice.
    """
    axes = [[(name, _value(name, text)) for text in texts] for name, *texts in vary]
    if len({axis[0][0] for axis in axes if axis}) < len(vary):
        raise InputError("--vary: expected an option and one value or more, each option once, found another list")
    if cross:
        return [[Condition()], [Condition(changes) for changes in itertools.product(*axes)]] if axes else [[Condition()]]
    return [[Condition()], *([Condition((change,)) for change in axis] for axis in axes)]


def _value(name: str, text: str) -> Any:
    if name not in OPTIONS:
        raise InputError(f"--vary: expected one of {', '.join(OPTIONS)}, found {shown(name)}")
    try:
        return OPTIONS[name](text)
    except ValueError:
        raise InputError(f"--vary {name}: expected {OPTIONS[name].__name__}, found {shown(text)}") from None
