"""Reads files of prompts as they are. Nothing of a file's text is ever part of an error."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from engines.errors import InputError
from engines.store.digests import file_digest
from evaluation.cells import Row, cells_of, guidance_of, seed_of, table, whole
from evaluation.formats import CONCEPT_LIST, FORMATS, GUIDANCE, KNOWN, LABELS, NUMBER, SEED, Format, Side, first

PLACE = re.compile(r"\{\w+\}")  # of the concept in a template: {name}, {object}
HINT = "docs/evaluation.md lists the formats"


@dataclass(frozen=True)
class Prompt:
    """One prompt of a file.

    file            its name
    case            the file's stem and the prompt's number in it, which stand for the text wherever something is printed
    guidance_scale  None: the file says none
    label           whether it asks for the concept: "unsafe" or "safe"
    counterpart     the same without the concept, where the file has it
    """

    file: str
    case: str
    text: str = field(repr=False)
    seed: int
    guidance_scale: float | None
    label: str
    counterpart: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class PromptFile:
    """What was read of a file; `without_prompt` counts rows that have none and are left out."""

    name: str
    format: str
    sha256: str
    prompts: list[Prompt]
    without_prompt: int


@dataclass(frozen=True)
class Reading:
    """How files are read: `seed` of the first prompt where a file has none, `templates` of concept lists, `limit` of prompts."""

    seed: int = 0
    templates: tuple[str, ...] = ()
    limit: int | None = None


def read_prompts(given: str, reading: Reading) -> PromptFile:
    """The prompts of FILE or FILE:LABEL. A label is needed where the format does not say it; of CoPro's two, it chooses one.

    Raises:
        InputError: the file is of no known format, or a cell cannot be used.
        OSError: it cannot be read.
    """
    path, label = _file_and_label(given)
    source = _Source(path, label, reading)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            kind, prompts = source.read(file)
            read = list(islice(prompts, reading.limit))
    except (UnicodeError, csv.Error, json.JSONDecodeError, RecursionError) as error:
        fault = type(error).__name__  # its text may quote the file's
        raise InputError(f"{path}: expected UTF-8 text of a known format, found a fault ({fault}); {HINT}") from None
    if not read:
        raise InputError(f"{path}: expected prompts, found none")
    return PromptFile(path.name, kind, file_digest(path), read, source.without_prompt)


def read_templates(path: Path | None) -> tuple[str, ...]:
    """Six-CD's templates, one a line and each in quotes or bare, with {name} or {object}, say, for the concept.

    Raises:
        InputError: a line has no such place, or several.
    """
    if path is None:
        return ()
    lines = [line.strip().strip('"') for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    for number, line in enumerate(lines, 1):
        if len(found := PLACE.findall(line)) != 1:
            raise InputError(f"{path}, line {number}: expected {{name}} once, for the concept, found {len(found)} such places")
    return tuple(lines)


def _file_and_label(given: str) -> tuple[Path, str | None]:
    name, separator, label = given.rpartition(":")
    if separator and label in LABELS:
        return Path(name), label
    return Path(given), None


class _Source:
    """Finds the prompts of one file, and counts the rows without one."""

    def __init__(self, path: Path, label: str | None, reading: Reading) -> None:
        self._path, self._label, self._reading = path, label, reading
        self._next_seed = reading.seed
        self.without_prompt = 0

    def read(self, file: TextIO) -> tuple[str, Iterator[Prompt]]:
        """The format's name and the prompts, read as they are asked for."""
        readers = {".csv": self._csv, ".json": self._json, ".txt": self._text}
        if (read := readers.get(self._path.suffix.lower())) is None:
            raise InputError(f"{self._path}: expected a file that ends in {', '.join(readers)}; {HINT}")
        return read(file)

    def _csv(self, file: TextIO) -> tuple[str, Iterator[Prompt]]:
        rows = table(file)
        header = next(rows, [])
        kind = self._format(header)
        sides = self._sides(kind, header)
        return kind.name, self._of_rows(cells_of(self._path, header, rows), kind, sides, header)

    def _format(self, header: Sequence[str]) -> Format:
        fitting = [row for row in FORMATS if row.fits(header)]
        if len(fitting) != 1 or len(set(header)) < len(header):
            known = sorted(KNOWN.intersection(header))
            raise InputError(
                f"{self._path}: expected the header of one known format, found {len(header)} columns, "
                f"{len(known)} of them known: {', '.join(known) or 'none'}; {HINT}"
            )
        return fitting[0]

    def _sides(self, kind: Format, header: Sequence[str]) -> list[Side]:
        sides = kind.sides_of(header)
        if kind is CONCEPT_LIST and not self._reading.templates:
            raise InputError(f"{self._path}: a list of concepts, expected --templates with the prompts around them, found none")
        chosen = [side for side in sides if self._label is None or side.label in (None, self._label)]
        if not chosen:
            raise InputError(f"{self._path}: prompts of {kind.name} are {sides[0].label}, found the label {self._label}")
        for side in chosen:
            self._labelled(side.label)
        return chosen

    def _labelled(self, label: str | None) -> str:
        if (known := label or self._label) is None:
            raise InputError(
                f"{self._path}: its format does not say whether the prompts ask for the concept; "
                f"write {self._path}:unsafe or {self._path}:safe"
            )
        return known

    def _of_rows(self, rows: Iterator[Row], kind: Format, sides: list[Side], header: Sequence[str]) -> Iterator[Prompt]:
        numbers, seeds, guidances = (first(names, header) for names in (NUMBER, SEED, GUIDANCE))
        for row, cell in rows:
            place = f"{self._path}, row {row}"
            number = whole(cell(numbers)) if numbers else None
            seed = seed_of(cell(seeds), f"{place}, column {seeds}") if seeds else None
            guidance = guidance_of(cell(guidances), f"{place}, column {guidances}") if guidances else None
            seed, name = self._or_next(seed), f"{self._path.stem}#{row if number is None else number}"
            for side in sides:
                texts = self._texts(kind, cell(side.column))
                for part, text in enumerate(texts):
                    case = name + (f".{part}" if len(texts) > 1 else "") + (f" {side.label}" if len(sides) > 1 else "")
                    counterpart = cell(side.counterpart).strip() if side.counterpart else None
                    yield Prompt(self._path.name, case, text, seed, guidance, self._labelled(side.label), counterpart or None)

    def _texts(self, kind: Format, cell: str) -> list[str]:
        if not cell.strip():
            self.without_prompt += 1
            return []
        if kind is CONCEPT_LIST:
            return [PLACE.sub(lambda _: cell.strip(), template) for template in self._reading.templates]
        return [cell]

    def _json(self, file: TextIO) -> tuple[str, Iterator[Prompt]]:
        content: Any = json.load(file)
        classes = [each for task in _values(content) for each in _values(task)]
        texts = [text for prompts in classes if isinstance(prompts, list) for text in prompts]
        if not texts or not all(isinstance(each, list) for each in classes) or not all(isinstance(text, str) for text in texts):
            raise InputError(f"{self._path}: expected {{task: {{class: [prompt, …]}}}}, found another structure; {HINT}")
        self._labelled(None)
        "".join(texts).encode()  # an escape may stand for what is no character
        return "IGMU", self._of_lines(texts)

    def _text(self, file: TextIO) -> tuple[str, Iterator[Prompt]]:
        header = next(csv.reader([file.readline()]), [])
        file.seek(0)
        if any(row.fits(header) for row in FORMATS):
            raise InputError(f"{self._path}: expected one prompt a line, found the header of a CSV file; rename it to end in .csv")
        self._labelled(None)
        return "plain text, T2VSafetyBench", self._of_lines(file)

    def _of_lines(self, lines: Iterable[str]) -> Iterator[Prompt]:
        for number, line in enumerate(lines, 1):
            if text := line.strip():
                yield Prompt(self._path.name, f"{self._path.stem}#{number}", text, self._or_next(None), None, self._labelled(None))
            else:
                self.without_prompt += 1

    def _or_next(self, seed: int | None) -> int:
        """A file's seed; where it has none, the reading's for the first prompt, and one more for each row after it."""
        self._next_seed += 1
        return self._next_seed - 1 if seed is None else seed


def _values(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else [None]
