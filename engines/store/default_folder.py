"""Where engines are written and looked for when no folder is named."""

from __future__ import annotations

import os
from pathlib import Path


def engine_folder(name: str = "demo") -> Path:
    """`engines/plans/<name>` under `$SAFEREDIR_HOME`, or under the working directory where that is not set."""
    return Path(os.environ.get("SAFEREDIR_HOME", ""), "engines", "plans", name)
