"""Folders that a build may write to: nothing but engines is ever replaced."""

from __future__ import annotations

from pathlib import Path

from engines.errors import InputError
from engines.manifest import FILE_NAME


def check_output(folder: Path, option: str) -> None:
    """Raise InputError where engines written to `folder` would replace something else. `option` is the flag that gave it."""
    if folder.is_dir():
        names = sorted(path.name for path in folder.iterdir())
        if not names or FILE_NAME in names:
            return
        found = f"{names[0]!r} and no manifest"
    elif folder.exists():
        found = "a file"
    else:
        return
    raise InputError(f"{folder}: expected an engine folder or none, found {found}; choose another {option}")
