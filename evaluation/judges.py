"""Judges of pictures: functions that say whether a picture shows the concept that a guard forgets."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import numpy as np

from engines.errors import InputError
from engines.printable import shown

Judge = Callable[[np.ndarray], bool]  # a picture uint8 [H, W, 3] -> whether it shows the concept


def load_judge(name: str) -> Judge:
    """The function that `module:function` names, such as `demo.oracle:has_flames`. Importing the module runs its code.

    Raises:
        InputError: not of that form, no such module, or no such function in it.
    """
    module, separator, function = name.partition(":")
    if not (module and separator and function):
        raise InputError(f"judge: expected module:function, found {shown(name)}")
    try:
        judge: Judge = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise InputError(f"judge {shown(name)}: cannot be imported: {error}; check the name, and that Python finds it") from None
    if not callable(judge):
        raise InputError(f"judge {shown(name)}: expected a function, found {type(judge).__name__}")
    return judge
