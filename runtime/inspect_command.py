"""Say what engines are made of, from their manifest alone, or what the report inside a picture says.

A picture is checked against its report: one that was changed since, or carries another picture's report, is an error.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from engines.errors import InputError
from engines.exit_status import DONE
from engines.printable import printable
from engines.store.engine_store import EngineStore
from engines.store.signature import add_trusted_key_argument, signature_in_words
from engines.summary import summary
from runtime.picture_files import read_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("path", type=Path, help="folder made by saferedir build, or picture made by saferedir: PNG, JPEG or WebP")
    add_trusted_key_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the table of engines or of a picture; exit status 0."""
    if arguments.path.is_file():
        _print_picture(arguments.path)
    else:
        store = EngineStore(arguments.path, arguments.trusted_key)
        print(summary(store.manifest, store.digest, signature_in_words(store.folder, store.signature)))
    return DONE


def _print_picture(path: Path) -> None:
    """The report as it is, and only then whether it is this picture's."""
    found = read_report(path.read_bytes(), str(path))
    try:
        rows = list(_rows("", found.report))
    except RecursionError:
        raise InputError(f"{path}: expected a report, found one nested without end") from None
    for name, value in rows:
        print(printable(f"{name:<30} {value}"))
    if found.problem is not None:
        raise InputError(found.problem)
    print(f"{'picture':<30} as the report says: {found.report['width']}x{found.report['height']} pixels, and their SHA-256")


def _rows(name: str, value: object) -> Iterator[tuple[str, str]]:
    """Names and values, down to those that fit a line."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _rows(f"{name}.{key}" if name else key, item)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for place, item in enumerate(value):
            yield from _rows(f"{name}.{place}", item)
    else:
        yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
