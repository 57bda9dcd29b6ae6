"""What makes an audit file evidence: every record holds the hash of the one before, and its own number.

A record is one line of JSON. `previous` is the SHA-256 of the line of the record before, without its line end, or 64 zeros in the
first record of all; `number` counts from 1. Both go on through all files of a log. What a kill or a full disk cut off is no record;
the next record has the event "recovered" and the SHA-256 of what was cut off.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engines.decode import without_duplicates
from engines.printable import shown
from runtime.serving.errors import AuditError

GENESIS = "0" * 64
RECOVERED = "recovered"


def line_digest(line: bytes) -> str:
    """SHA-256 of a line without its line end."""
    return hashlib.sha256(line).hexdigest()


def parse_record(line: bytes) -> dict[str, Any] | None:
    """The object of a line, without its line end; None where it is no record."""
    try:
        record = json.loads(line, object_pairs_hook=without_duplicates)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    types = {"previous": str, "number": int, "time": str, "event": str}
    return record if all(type(record.get(name)) is kind for name, kind in types.items()) else None


class Chain:
    """Takes lines one after another and holds each to those before.

    head    SHA-256 of the last record's line
    number  of the last record; 0 before the first
    first   number of the first record that was taken; above 1 where earlier files are elsewhere
    cut     lines since the last record that are none
    """

    def __init__(self) -> None:
        self.head, self.number, self.first = GENESIS, 0, 0
        self.cut: list[bytes] = []

    def add(self, line: bytes, place: str) -> dict[str, Any] | None:
        """Take a line without its line end; its record, or None where it is none. `place` is named in errors.

        Raises:
            AuditError: it is not the line that followed when it was written.
        """
        record = parse_record(line)
        if record is None:
            self.cut.append(line)
            return None
        if not self.first and record["number"] > 1:  # earlier files are elsewhere: nothing to compare with
            self.head, self.number = record["previous"], record["number"] - 1
        if record["number"] != self.number + 1:
            found = shown(record["number"])
            raise AuditError(f"{place}: expected record {self.number + 1}, found number {found}: records are missing")
        if record["previous"] != self.head:
            raise AuditError(
                f"{place}: expected the SHA-256 of the record before, {self.head}, found {shown(record['previous'])}: "
                "that record was changed or replaced"
            )
        self._account_for_cut(record, place)
        self.head, self.number, self.first = line_digest(line), record["number"], self.first or record["number"]
        return record

    @property
    def cut_digest(self) -> str | None:
        """SHA-256 of what was cut off since the last record; None where nothing was."""
        return line_digest(b"\n".join(self.cut)) if self.cut else None

    def _account_for_cut(self, record: dict[str, Any], place: str) -> None:
        said = record.get("cut_sha256") if record["event"] == RECOVERED else None
        if said != self.cut_digest:
            raise AuditError(
                f"{place}: expected a record that accounts for the line before, found none: that line is no record, and was "
                "changed or put there"
                if self.cut
                else f"{place}: expected the line that was cut off before it, found none: it was removed"
            )
        self.cut = []


def log_files(path: Path) -> list[Path]:
    """The files of a log, oldest first: FILE.1, FILE.2, … and FILE, as far as they are there."""
    return [*(file for _, file in rotated_files(path)), *([path] if path.exists() else [])]


def rotated_files(path: Path) -> list[tuple[int, Path]]:
    """FILE.1, FILE.2, … by their numbers."""
    start = path.name + "."
    endings = ((file.name.removeprefix(start), file) for file in path.parent.iterdir() if file.name.startswith(start))
    return sorted((int(ending), file) for ending, file in endings if ending.isascii() and ending.isdigit())


def read_lines(file: Path) -> Iterator[tuple[bytes, str]]:
    """Each line of a file without its line end, and its place for errors."""
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            yield line.removesuffix(b"\n"), f"{file}:{number}"
