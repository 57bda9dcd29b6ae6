"""The files that an attack reads: prompts with their counterparts or without, and words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engines.errors import InputError
from evaluation.attacks.target import Prompt

PAIR = {"safe", "unsafe"}


def read_prompts(path: Path, seed: int) -> list[Prompt]:
    """Of a JSON list of {"safe": …, "unsafe": …}, or a text of one prompt a line; prompt i has the seed `seed` + i.

    Raises:
        InputError: it cannot be read as either, or holds no prompt. The text does not quote the file.
    """
    content = read_text(path)
    if path.suffix == ".json":
        pairs = [(str(pair["unsafe"]), str(pair["safe"])) for pair in _pairs(path, content)]
        return [Prompt(unsafe, safe, seed + index) for index, (unsafe, safe) in enumerate(pairs)]
    lines = [line.strip() for line in content.splitlines() if line.strip()]
    if not lines:
        raise InputError(f"{path}: expected a prompt on each line, found none")
    return [Prompt(line, None, seed + index) for index, line in enumerate(lines)]


def read_words(path: Path) -> list[str]:
    """One word a line, each once. Raises InputError where there is none."""
    if not (words := list(dict.fromkeys(read_text(path).split()))):
        raise InputError(f"{path}: expected a word on each line, found none")
    return words


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected a file of UTF-8 text, cannot be read: {getattr(error, 'strerror', error)}") from None


def _pairs(path: Path, content: str) -> list[dict[str, Any]]:
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, list) or not parsed:
        raise InputError(f'{path}: expected a JSON list of {{"safe": …, "unsafe": …}}, found none')
    for index, pair in enumerate(parsed):
        if not isinstance(pair, dict) or pair.keys() != PAIR or not all(isinstance(text, str) and text for text in pair.values()):
            raise InputError(f"{path}: entry {index}: expected the texts safe and unsafe and nothing else, found another entry")
    return parsed
