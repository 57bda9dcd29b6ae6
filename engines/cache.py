"""The user's own folder for what can be made again: compiled kernels, checks that passed on this device."""
from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/saferedir`, by default `~/.cache/saferedir`, made for this user alone.

    Raises:
        OSError: it cannot be made.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "saferedir"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder
