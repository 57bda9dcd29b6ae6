"""Log lines, one JSON object each, without prompts: those have a hash by which equal ones are recognised."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import secrets
import traceback
from datetime import datetime, timezone

LOGGER = logging.getLogger("saferedir.serving")
FRAMES = 8  # of an error's traceback
_KEY = secrets.token_bytes(32)  # of this process, and written nowhere: without it no prompt can be guessed from its hash


def log(event: str, **values: object) -> None:
    """One line."""
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    LOGGER.info(json.dumps({"time": now, "event": event, **values}, default=str))


def where(error: BaseException) -> list[str]:
    """File, line and function of each call that led to an error, the last one last."""
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)[-FRAMES:]]


def prompt_hash(prompt: str) -> str:
    """A hash that is the same for the same prompt until the process ends."""
    return hmac.new(_KEY, prompt.encode(), hashlib.sha256).hexdigest()[:16]
