"""Where engines are written and looked for when no folder is named."""

from __future__ import annotations

import os
from pathlib import Path

from engines.errors import InputError


def engine_folder(name: str = "demo") -> Path:
    """`engines/plans/<name>` under `$SAFEREDIR_HOME`, or under the working directory where that is not set.

    Raises:
        InputError: this is not the name of a folder, as the root folder has none.
    """
    if name in ("", ".", "..") or Path(name).name != name:
        raise InputError(f"--engine-dir: expected, for a model whose folder is named {name!r}, found none")
    return Path(os.environ.get("SAFEREDIR_HOME", ""), "engines", "plans", name)
