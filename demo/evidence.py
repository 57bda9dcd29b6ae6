"""Measure the demo's guards: every figure of docs/evidence.md. `python demo/evidence.py`

It builds the engines that it needs. Each line of the tables is kept as soon as it is measured; the same command goes on from there.
`--table` prints the tables.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if __package__ in (None, ""):
    sys.path[0] = str(ROOT)

from demo.built import built, checkpoint  # noqa: E402
from demo.grid import Row, picture_grid  # noqa: E402
from demo.measure import OPTIONS, Measurement  # noqa: E402
from demo.questions import TOGETHER, Question, questions, together  # noqa: E402
from demo.resumed import keep, resumed  # noqa: E402
from demo.world import CONCEPTS  # noqa: E402
from engines.errors import InputError  # noqa: E402
from engines.store.digests import file_digest  # noqa: E402
from runtime import GuardedPipeline  # noqa: E402

IN_A_ROW = 12  # pictures of a grid
COLUMNS = {
    "unsafe: unguarded shows it": "unguarded shows it",
    "unsafe: guarded shows it": "guarded shows it",
    "unsafe: withheld": "withheld",
    "unsafe: colours right": "colours right",
    "unsafe: shapes right": "shapes right",
    "safe: unguarded shows it": "safe: unguarded shows it",
    "safe: triggered": "safe: triggered",
    "safe: identical": "safe: identical",
    "safe: withheld": "safe: withheld",
}


def main() -> None:
    """Measure what is not measured yet, print it, or draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concept", nargs="+", choices=CONCEPTS, default=CONCEPTS, help="whose guards (default: all)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these tables, or lines of tables (default: all)")
    parser.add_argument("--backend", default="openvino", help="of the engines (%(default)s)")
    parser.add_argument("--precision", default="bfloat16", help="of the engines (%(default)s)")
    parser.add_argument("--unet-weights", type=Path, help="in the place of the UNet's, as demo/esd.py writes them")
    parser.add_argument(
        "--prompts",
        type=int,
        default=400,
        help="captions of each kind for a line whose rate has a bar (%(default)s); for others a quarter",
    )
    parser.add_argument("--batch-size", type=int, default=20, help="pictures of a run (%(default)s)")
    parser.add_argument("--output", type=Path, default=ROOT / "demo" / "evidence.json", help="JSON to go on with (%(default)s)")
    parser.add_argument("--table", action="store_true", help="only print what was measured")
    parser.add_argument("--grid", type=Path, metavar="PICTURE", help="only draw unsafe captions, unguarded above, guarded below")
    arguments = parser.parse_args()
    if arguments.table:
        print(tables(json.loads(arguments.output.read_text())))
    elif arguments.grid:
        _draw(arguments)
    else:
        _measure(arguments)


def _measure(arguments: argparse.Namespace) -> None:
    document = _begun(arguments)
    measured = {(line["about"], line["table"], line["name"]) for line in document["lines"]}
    asked = [(about, question) for about, question in _asked(arguments) if (about, question.table, question.name) not in measured]
    for pipeline, part in _built(asked, arguments):
        measure = Measurement(pipeline, arguments.prompts, arguments.batch_size)
        for about, question in part:
            document["lines"].append({"about": about, "table": question.table, "name": question.name, **measure(question)})
            print(_text(document["lines"][-1]), flush=True)
            keep(document, arguments.output)


def _draw(arguments: argparse.Namespace) -> None:
    rows = []
    for pipeline, part in _built(_asked(arguments), arguments):
        measure = Measurement(pipeline, IN_A_ROW, IN_A_ROW)
        for about, question in part:
            unguarded, guarded = measure.pictures(replace(question, share=1.0))
            rows += [Row(unguarded, f"{about}; {question.table}; {question.name}"), Row(guarded)]
    picture_grid(rows).save(arguments.grid)


def _asked(arguments: argparse.Namespace) -> list[tuple[str, Question]]:
    """Questions, each with the section that it is of: a concept, or several together."""
    asked = [(concept, question) for concept in arguments.concept for question in questions(concept)]
    if {*arguments.concept} == {*CONCEPTS}:
        asked += [(TOGETHER, question) for question in together()]
    if arguments.only:
        asked = [(about, question) for about, question in asked if {question.table, question.name} & {*arguments.only}]
    return asked


def _built(
    asked: Sequence[tuple[str, Question]], arguments: argparse.Namespace
) -> Iterator[tuple[GuardedPipeline, list[tuple[str, Question]]]]:
    """Engines for the questions, one after the other, each with the questions that it is for."""
    for (about, ablation), part in itertools.groupby(asked, lambda line: (line[0], line[1].ablation)):
        concepts = CONCEPTS if about == TOGETHER else (about,)
        with built(concepts, ablation, arguments.backend, arguments.precision, arguments.unet_weights) as pipeline:
            yield pipeline, list(part)


def _begun(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the output holds, with these guards beside those of other concepts.

    Raises InputError where another guard of a concept, other engines or another number of prompts gave it.
    """
    about = {
        "command": "python demo/evidence.py",
        "options": OPTIONS,
        "engines": f"{arguments.backend}, {arguments.precision}",
        "unet_weights": arguments.unet_weights and file_digest(arguments.unet_weights),
        "prompts": arguments.prompts,
    }
    document = resumed(arguments.output, about)
    guards = document.setdefault("guards", {})
    for concept in arguments.concept:
        digest = file_digest(checkpoint(concept))
        if (known := guards.setdefault(concept, digest)) != digest:
            raise InputError(
                f"{arguments.output}: expected the guard of {concept} {digest}, found lines of {known}; give another --output"
            )
    return document


def _text(line: dict[str, Any]) -> str:
    counts = [
        f"{name} {value['hits']} of {value['of']}" for name, value in line.items() if isinstance(value, dict) and "hits" in value
    ]
    return "; ".join([line["about"], line["table"], line["name"], *counts])


def tables(document: dict[str, Any]) -> str:
    """Markdown: a section for each concept, in it a table for each kind of question."""
    lines: list[dict[str, Any]] = document["lines"]
    parts = []
    for about in dict.fromkeys(line["about"] for line in lines):
        section = [line for line in lines if line["about"] == about]
        parts.append(f"## {about.capitalize()}")
        parts += [_table(title, section) for title in dict.fromkeys(line["table"] for line in section)]
    return "\n\n".join(parts)


def _table(title: str, section: list[dict[str, Any]]) -> str:
    rows = [f"| {title} | {' | '.join(COLUMNS.values())} |", f"|{'---|' * (len(COLUMNS) + 1)}"]
    for line in section:
        if line["table"] == title:
            cells = [f"{line[column]['hits']} of {line[column]['of']}" for column in COLUMNS]
            rows.append(f"| {line['name']} | {' | '.join(cells)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
