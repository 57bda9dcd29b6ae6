"""Packages that some figures need and users install themselves."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from engines.errors import InputError

EXTRA = 'pip install "saferedir[evaluation]"'  # what every evaluation needs


def package(module: str, purpose: str, install: str) -> ModuleType:
    """The imported module.

    Raises:
        InputError: it is not installed; the error has the command that installs it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise InputError(f"{purpose}: expected the package {module}, found none ({error}); install it with: {install}") from None
