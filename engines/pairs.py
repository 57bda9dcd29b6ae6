"""Aligned prompts: the safe and the unsafe one of each pair, read from files whose text no error repeats."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engines.decode import without_duplicates
from engines.errors import InputError

HEADER = ["safe", "unsafe"]
PAIR_FILES = (".json", ".csv")


@dataclass(frozen=True)
class Pair:
    """Two prompts that differ in the concept only.

    Raises:
        ValueError: one is empty or cannot be written as UTF-8, or both are the same; the text does not repeat them.
    """

    safe: str
    unsafe: str

    def __post_init__(self) -> None:
        if not self.safe.strip() or not self.unsafe.strip():
            raise ValueError("expected two prompts, found an empty one")
        if any(0xD800 <= ord(char) < 0xE000 for char in self.safe + self.unsafe):  # as JSON's escapes can make
            raise ValueError("expected two prompts in UTF-8, found half a character")
        if self.safe == self.unsafe:
            raise ValueError("expected two prompts that differ, found the same twice")


def words_of(prompt: str) -> list[str]:
    """The words of a prompt, in lower case."""
    return re.findall(r"\w+", prompt.lower())


def lacking(prompt: str, other: str) -> list[str]:
    """Each run of words of a prompt that another prompt lacks, in lower case: what only the unsafe one of a pair says."""
    runs = itertools.groupby(words_of(prompt), {*words_of(other)}.__contains__)
    return [" ".join(run) for common, run in runs if not common]


def read_pairs(paths: Sequence[Path]) -> list[Pair]:
    """The pairs of all files, without repetitions: `.json` holds a list of {"safe": …, "unsafe": …}, `.csv` has that header.

    Raises:
        InputError: a file is missing, of another form or without a pair; the text names the entry and repeats no prompt.
    """
    pairs: list[Pair] = []
    for path in paths:
        if path.suffix not in PAIR_FILES:
            raise InputError(f"{path}: expected pairs of prompts, in a file ending in .json or .csv, found {path.suffix!r}")
        entries = _json_entries(path) if path.suffix == ".json" else _csv_entries(path)
        if not entries:
            raise InputError(f"{path}: expected pairs of prompts, found none")
        pairs += [_pair(path, place, entry) for place, entry in entries]
    return list(dict.fromkeys(pairs))


def read_prompts(path: Path) -> list[str]:
    """The prompts of a text file, one a line; empty lines are skipped.

    Raises:
        InputError: no such file, not UTF-8, or no prompt in it.
    """
    prompts = [line.strip() for line in read_text(path, "prompts, one a line").splitlines() if line.strip()]
    if not prompts:
        raise InputError(f"{path}: expected prompts, one a line, found none")
    return prompts


def read_prompts_or_pairs(path: Path) -> list[str]:
    """The prompts of a text file, one a line, or both of each pair of a `.json` or `.csv` file; each prompt once.

    Raises:
        InputError: as `read_pairs` and `read_prompts`.
    """
    if path.suffix not in PAIR_FILES:
        return list(dict.fromkeys(read_prompts(path)))
    return list(dict.fromkeys(prompt for pair in read_pairs([path]) for prompt in (pair.safe, pair.unsafe)))


def read_text(path: Path, what: str) -> str:
    """A file's text in UTF-8, with or without a byte order mark. Raises InputError; `what` it should hold is for the message."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: expected {what}, cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: expected {what} in UTF-8, found other bytes; save it as UTF-8") from None


def _json_entries(path: Path) -> list[tuple[str, object]]:
    text = read_text(path, 'a JSON list of {"safe": …, "unsafe": …}')
    try:
        content = json.loads(text, object_pairs_hook=without_duplicates)
    except (ValueError, RecursionError) as error:
        line = f" at line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise InputError(f'{path}: expected a JSON list of {{"safe": …, "unsafe": …}}, found no valid JSON{line}') from None
    if not isinstance(content, list):
        raise InputError(f'{path}: expected a JSON list of {{"safe": …, "unsafe": …}}, found {type(content).__name__}')
    return [(f"entry {number}", entry) for number, entry in enumerate(content, 1)]


def _csv_entries(path: Path) -> list[tuple[str, object]]:
    reader = csv.reader(io.StringIO(read_text(path, f"CSV with the header {','.join(HEADER)}"), newline=""), strict=True)
    try:
        rows = [(f"line {reader.line_num}", row) for row in reader if row]
    except csv.Error:
        raise InputError(f"{path}: line {reader.line_num}: expected CSV, found a quote that does not end a cell") from None
    if not rows or rows[0][1] != HEADER:
        raise InputError(f"{path}: expected the header {','.join(HEADER)}, found another first line")
    for place, row in rows:
        if len(row) != len(HEADER):
            raise InputError(f"{path}: {place}: expected {len(HEADER)} cells, found {len(row)}; put cells with commas in quotes")
    return [(place, dict(zip(HEADER, row, strict=True))) for place, row in rows[1:]]


def _pair(path: Path, place: str, entry: object) -> Pair:
    if not isinstance(entry, dict) or sorted(entry) != HEADER or not all(isinstance(text, str) for text in entry.values()):
        raise InputError(f'{path}: {place}: expected {{"safe": …, "unsafe": …}}, two texts, found another form')
    try:
        return Pair(**entry)
    except ValueError as error:
        raise InputError(f"{path}: {place}: {error}") from None
