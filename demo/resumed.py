"""A JSON document of measurements that a repeated command goes on with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.errors import InputError
from engines.store.atomic import replacing


def resumed(output: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """What `output` holds; where there is none, `about` and no lines.

    Raises:
        InputError: what it holds is about something else.
    """
    document: dict[str, Any] = json.loads(output.read_text()) if output.exists() else {**about, "lines": []}
    for name, value in about.items():
        if document[name] != value:
            raise InputError(f"{output}: expected {name} {value}, found {document[name]}; give another --output")
    return document


def keep(document: Mapping[str, Any], output: Path) -> None:
    """Write what was measured so far, whole or not at all."""
    with replacing(output) as temporary:
        temporary.write_text(json.dumps(document, indent=1) + "\n")
