"""Judges of pictures: functions that say whether a picture shows the concept that a guard forgets."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from engines.errors import InputError
from engines.printable import shown
from evaluation.nudenet_judge import open_nudenet
from evaluation.person_judge import open_person

Judge = Callable[[np.ndarray], bool]  # a picture uint8 [H, W, 3] -> whether it shows the concept


@dataclass(frozen=True)
class NamedJudge:
    """A judge over a package or a file that users have: `open` makes it from what follows NAME= ("" for nothing).

    argument   that, in words
    preserves  whether it looks for what a picture should keep, rather than for the concept to forget
    """

    open: Callable[[str], Judge]
    argument: str
    preserves: bool = False


JUDGES = {
    "nudenet": NamedJudge(open_nudenet, "[=THRESHOLD]"),
    "person": NamedJudge(open_person, "=YOLO.onnx", preserves=True),
}


def judge_names() -> str:
    """What --judge takes, in words."""
    return ", ".join(["module:function", *(name + judge.argument for name, judge in JUDGES.items())])


def preserves(name: str) -> bool:
    """Whether a judge looks for what a picture should keep."""
    named = JUDGES.get(name.partition("=")[0])
    return named is not None and named.preserves


def load_judge(name: str) -> Judge:
    """A judge of JUDGES, such as `nudenet=0.6`, or the function that `module:function` names, such as `demo.oracle:has_flames`.

    Importing a module runs its code.

    Raises:
        InputError: no such judge, module or function; or what the judge needs is missing.
    """
    known, _, argument = name.partition("=")
    if known in JUDGES:
        return JUDGES[known].open(argument)
    module, separator, function = name.partition(":")
    if not (module and separator and function):
        raise InputError(f"judge: expected {judge_names()}, found {shown(name)}")
    try:
        judge: Judge = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        hint = "check the name; python -m saferedir finds modules in the working directory, too"
        raise InputError(f"judge {shown(name)}: cannot be imported: {error}; {hint}") from None
    if not callable(judge):
        raise InputError(f"judge {shown(name)}: expected a function, found {type(judge).__name__}")
    return judge
