"""The files that an attack reads: prompts with their counterparts or without, and words."""

from __future__ import annotations

from pathlib import Path

from engines.errors import InputError
from engines.pairs import PAIR_FILES, read_pairs, read_text
from engines.pairs import read_prompts as read_lines
from evaluation.attacks.target import Prompt


def read_prompts(path: Path, seed: int) -> list[Prompt]:
    """Of pairs in a `.json` or `.csv` file, or a text of one prompt a line; prompt i has the seed `seed` + i.

    Raises:
        InputError: as `engines.pairs` reads them. The text does not quote the file.
    """
    if path.suffix in PAIR_FILES:
        return [Prompt(pair.unsafe, pair.safe, seed + index) for index, pair in enumerate(read_pairs([path]))]
    return [Prompt(line, None, seed + index) for index, line in enumerate(read_lines(path))]


def read_words(path: Path) -> list[str]:
    """One word a line, each once. Raises InputError where there is none."""
    if not (words := list(dict.fromkeys(read_text(path, "words, one a line").split()))):
        raise InputError(f"{path}: expected a word on each line, found none")
    return words
