"""The user's own folder for what can be made again: compiled kernels, digests, checks that passed on this device."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/saferedir`, by default `~/.cache/saferedir`, made for this user alone.

    Raises:
        OSError: it cannot be made, or others may write to it: its files are used without another check.
    """
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "saferedir"
    except RuntimeError as error:  # no $HOME, and the user is in no list of users
        raise FileNotFoundError(f"{error}; set XDG_CACHE_HOME to a folder for what can be made again") from None
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022):
        raise PermissionError(f"{folder}: expected a folder that this user alone can write to; chmod 700 it")
    return folder
