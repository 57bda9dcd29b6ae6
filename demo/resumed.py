"""A JSON document of measurements that a repeated command goes on with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.errors import InputError


def resumed(output: Path, about: Mapping[str, Any], rows: str) -> dict[str, Any]:
    """What `output` holds; where there is none, `about` and no measurements under the key `rows`.

    Raises:
        InputError: what it holds is about something else.
    """
    document: dict[str, Any] = json.loads(output.read_text()) if output.exists() else {**about, rows: []}
    for name, value in about.items():
        if document[name] != value:
            raise InputError(f"{output}: expected {name} {value}, found {document[name]}; give another --output")
    return document
