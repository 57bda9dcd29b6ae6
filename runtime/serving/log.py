"""Log lines, one JSON object each. None holds a prompt, unless the operator wants that."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import datetime, timezone

LOGGER = logging.getLogger("runtime.serving")
FRAMES = 8  # of an error's traceback


class JsonLines(logging.Formatter):
    """A record as a JSON object in one line."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        values = getattr(record, "values", {})
        return json.dumps({"time": time, "level": record.levelname.lower(), "event": record.getMessage(), **values}, default=str)


def log(event: str, level: int = logging.INFO, **values: object) -> None:
    """One line."""
    LOGGER.log(level, event, extra={"values": values})


class _ToStderr(logging.Handler):
    """Prints to the standard error of the moment, which may be another than that of before."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except Exception:  # as every handler of logging
            self.handleError(record)


_HANDLER = _ToStderr()
_HANDLER.setFormatter(JsonLines())


def log_to_stderr() -> None:
    """Print the lines of this package, each once however often this is called."""
    LOGGER.addHandler(_HANDLER)
    LOGGER.setLevel(logging.INFO)


def where(error: BaseException) -> list[str]:
    """File, line and function of each call that led to an error, the last one last; its text could hold a prompt."""
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)[-FRAMES:]]
