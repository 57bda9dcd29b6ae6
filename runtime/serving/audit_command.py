"""Verify an audit log: that no record was changed, removed or put in between, and what it records.

Every record holds the hash of the one before, so only records at the end can go without a trace in the file. Keep the head, which
this command prints, elsewhere, and give it with --head later.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engines.errors import InputError
from engines.exit_status import DONE
from engines.printable import printable, shortened
from runtime.serving.audit_chain import RECOVERED, Chain, log_files, read_lines
from runtime.serving.errors import AuditError
from runtime.serving.prompt_hash import key_file, prompt_hash, read_key


@dataclass
class Found:
    """What a log holds.

    images     verdict → number of images
    recovered  places of records that tell of a kill or a failure
    lost       records that could not be written
    kept       number of the record that has the wanted head
    of_prompt  numbers of the records of images of the wanted prompt
    """

    images: Counter[str] = field(default_factory=Counter)
    recovered: list[str] = field(default_factory=list)
    lost: int = 0
    kept: int | None = None
    of_prompt: list[str] = field(default_factory=list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("file", type=Path, help="as given to saferedir serve --audit; files that are full (FILE.1, …) are read too")
    parser.add_argument("--head", help="a head that was kept elsewhere: fail unless the log still holds its record")
    parser.add_argument("--prompt", help="list the records of this prompt, by the key in FILE.key")


def run(arguments: argparse.Namespace) -> int:
    """Verify and print what was found; exit status 0.

    Raises:
        AuditError: the log is not as it was written, or lacks the kept head.
    """
    files = log_files(arguments.file)
    if not files:
        raise InputError(f"{arguments.file}: expected an audit log, found none")
    wanted = None if arguments.prompt is None else prompt_hash(arguments.prompt, read_key(key_file(arguments.file)))
    chain, found = Chain(), Found()
    for file in files:
        for line, place in read_lines(file):
            if (record := chain.add(line, place)) is not None:
                _count(found, record, place)
                found.kept = record["number"] if chain.head == arguments.head else found.kept
                if wanted is not None and record.get("prompt_hmac") == wanted:
                    found.of_prompt.append(str(record["number"]))
    for name, value in _described(files, chain, found, arguments).items():
        print(printable(f"{name:<12} {value}"))
    if arguments.head is not None and found.kept is None:
        raise AuditError(f"{arguments.file}: expected the record with head {arguments.head}, found none: its end is gone")
    return DONE


def _count(found: Found, record: dict[str, Any], place: str) -> None:
    if record["event"] == "image":
        found.images[str(record.get("verdict"))] += 1
    elif record["event"] == RECOVERED:
        found.recovered.append(place)
        found.lost += record["lost"] if type(record.get("lost")) is int else 0


def _described(files: list[Path], chain: Chain, found: Found, arguments: argparse.Namespace) -> dict[str, str]:
    """Rows of the table."""
    records = f"{chain.first} to {chain.number}, each as it was written" if chain.number else "none"
    rows = {"files": ", ".join(map(str, files)), "records": records}
    if chain.first > 1:
        rows["earlier"] = "records before are not here"
    rows["images"] = ", ".join(f"{verdict} {count}" for verdict, count in sorted(found.images.items())) or "none"
    if found.recovered:
        rows["recovered"] = f"{shortened(found.recovered)}; records lost: {found.lost}"
    if chain.cut:
        rows["cut off"] = f"{len(b''.join(chain.cut))} bytes at the end are no record: a kill, or a server that is writing"
    rows["head"] = chain.head
    if found.kept is not None:
        rows["kept head"] = f"that of record {found.kept}"
    if arguments.prompt is not None:
        rows["of prompt"] = ", ".join(found.of_prompt) or "no record"
    return rows
