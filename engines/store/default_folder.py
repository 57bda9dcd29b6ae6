"""Where engines are written and looked for when no folder is named."""

from __future__ import annotations

import os
from pathlib import Path

from engines.errors import InputError
from engines.manifest import FILE_NAME
from engines.printable import shortened
from engines.store.atomic import recover_folder

HELP = "made by saferedir build (default: engines/plans/demo; where it is not built, the only other in engines/plans)"


def engine_folder(name: str = "demo") -> Path:
    """`engines/plans/<name>` under `$SAFEREDIR_HOME`, or under the working directory where that is not set.

    Raises:
        InputError: this is not the name of a folder, as the root folder has none.
    """
    if name in ("", ".", "..") or Path(name).name != name:
        raise InputError(f"--engine-dir: expected, for a model whose folder is named {name!r}, found none")
    return Path(os.environ.get("SAFEREDIR_HOME", ""), "engines", "plans", name)


def built_folder() -> Path:
    """Where engines are looked for: `engine_folder()`, or where there is no such folder the only engines beside it.

    Raises:
        InputError: there are several, and which are meant cannot be told.
    """
    folder = engine_folder()
    recover_folder(folder)
    if folder.exists():
        return folder
    others = sorted(path.parent for path in folder.parent.glob(f"[!.]*/{FILE_NAME}"))
    if len(others) > 1:
        raise InputError(f"engine folder: expected one, as {folder} is not built, found {shortened([*map(str, others)])}; name one")
    return others[0] if others else folder
