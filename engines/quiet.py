"""Imports libraries of OpenVINO's makers without their reports."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

# It tells every import to the makers, and keeps an identifier under ~/intel. The libraries import without it.
_REPORTER = "openvino_telemetry"


@contextmanager
def unreported() -> Iterator[None]:
    """Within the block `openvino_telemetry` is what Python takes as not installed, unless the program has imported it before."""
    was_imported = _REPORTER in sys.modules
    if not was_imported:
        sys.modules[_REPORTER] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if not was_imported:
            del sys.modules[_REPORTER]
