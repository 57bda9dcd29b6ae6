"""Folders that a build may write to: only engines are ever replaced, and only where nothing else is among them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from engines.errors import InputError
from engines.manifest import FILE_NAME
from engines.store.atomic import is_leftover
from engines.store.signature import SIGNATURE_FILE

# What the manifests of every format have; of files, digest and size.
FIELDS = {"model", "sources", "backend", "versions", "files", "parity", "recipe", "command"}


def check_output(folder: Path, option: str) -> None:
    """Raise InputError where engines written to `folder` would replace something else. `option` is the flag that gave it.

    A folder is replaced if it is empty, or if its manifest is one of ours, of any format, and lists all that is in it.
    """
    if not folder.exists():
        return
    if os.path.ismount(folder):
        raise InputError(f"{folder}: expected a folder that can be replaced, found a mount point; choose an {option} inside it")
    if (found := _foreign(folder) if folder.is_dir() else "a file") is None:
        return
    raise InputError(f"{folder}: expected an engine folder or none, found {found}; choose another {option}")


def check_apart(folder: Path, option: str, other: Path, what: str) -> None:
    """Raise InputError where engines written to `folder` would be, contain or lie inside another folder, `what` in words."""
    target, other = folder.resolve(), other.resolve()
    for inner, outer, relation in ((target, other, "inside"), (other, target, "around")):
        if any(_same(path, outer) for path in (inner, *inner.parents)):
            found = f"{other} itself" if _same(inner, outer) else f"one {relation} {other}"
            raise InputError(f"{folder}: expected a folder apart from {what}, found {found}; choose another {option}")


def _same(path: Path, other: Path) -> bool:
    try:
        return path == other or path.samefile(other)
    except OSError:
        return False


def _foreign(folder: Path) -> str | None:
    """What there is in a folder besides engines, in words; None where nothing."""
    names = sorted(path.name for path in folder.iterdir())
    if not names:
        return None
    if FILE_NAME not in names:
        return f"{names[0]!r} and no manifest"
    if (listed := _listed(folder / FILE_NAME)) is None:
        return f"a {FILE_NAME} that is not of engines"
    for path, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not is_leftover(name)]
        for name in sorted([*files, *(name for name in folders if os.path.islink(os.path.join(path, name)))]):
            found = Path(path, name).relative_to(folder).as_posix()
            if found not in listed:
                return f"{found!r}, which the manifest does not list"
    return None


def _listed(path: Path) -> set[str] | None:
    """The files that a manifest lists, itself and its signature; None where it is none of ours."""
    try:
        parsed: Any = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
    if not isinstance(parsed, dict) or not parsed.keys() >= FIELDS or type(parsed.get("format")) is not int:
        return None
    files = parsed["files"]
    if not isinstance(files, dict) or not all(
        isinstance(file, dict) and file.keys() >= {"sha256", "size"} for file in files.values()
    ):
        return None
    return {FILE_NAME, SIGNATURE_FILE, *files}
