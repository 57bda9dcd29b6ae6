"""Git LFS pointers: what a clone holds in place of large files that were not fetched."""

from __future__ import annotations

from pathlib import Path

_FIRST = b"version https://git-lfs.github.com/spec/"


def lfs_problem(path: Path) -> str | None:
    """What is wrong with a file that is a Git LFS pointer, and what mends it; None for any other file."""
    with open(path, "rb") as file:
        if file.read(len(_FIRST)) != _FIRST:
            return None
    return f"{path}: expected the file itself, found a Git LFS pointer to it; fetch it with: git lfs pull"
