"""Keyed hashes that stand for prompts in records and logs: equal ones can be found, and without the key none is guessed."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
from pathlib import Path

from engines.errors import InputError

BYTES = 32


def prompt_hash(prompt: str, key: bytes) -> str:
    """HMAC-SHA256 of a prompt's UTF-8, in hexadecimal."""
    return hmac.new(key, prompt.encode(), hashlib.sha256).hexdigest()


def key_file(audit: Path) -> Path:
    """Where the key of an audit log is."""
    return audit.with_name(audit.name + ".key")


def prompt_key(file: Path) -> bytes:
    """The key in a file, which is made, for its owner's eyes only, where there is none.

    Raises:
        InputError: the file holds no key.
        OSError: it can be neither read nor made.
    """
    with contextlib.suppress(FileExistsError), open(file, "x", opener=_for_the_owner) as new:
        new.write(secrets.token_hex(BYTES) + "\n")
    return read_key(file)


def read_key(file: Path) -> bytes:
    """The key in a file.

    Raises:
        InputError: the file holds no key.
        OSError: it cannot be read.
    """
    try:
        key = bytes.fromhex(file.read_text(encoding="ascii"))
    except ValueError:
        key = b""
    if len(key) != BYTES:
        raise InputError(f"{file}: expected a key of {2 * BYTES} hexadecimal digits, found another text")
    return key


def _for_the_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
