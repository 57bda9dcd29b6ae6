"""Measure the demo's guards: every figure of docs/evidence.md. `python demo/evidence.py --engine-dir DIR`

Each line of the tables is kept as soon as it is measured; the same command goes on from there. `--table` prints the tables.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if __package__ in (None, ""):
    sys.path[0] = str(ROOT)

from demo.measure import OPTIONS, Measurement  # noqa: E402
from demo.questions import Question, questions, together  # noqa: E402
from demo.resumed import keep, resumed  # noqa: E402
from demo.world import CONCEPTS  # noqa: E402
from engines.errors import InputError  # noqa: E402
from engines.store.default_folder import engine_folder  # noqa: E402
from runtime import GuardedPipeline  # noqa: E402

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
    """Measure what is not measured yet, or print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine-dir", type=Path, default=engine_folder(), help="made by saferedir build (%(default)s)")
    parser.add_argument("--concept", nargs="+", choices=CONCEPTS, help="default: those of the engines")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these tables, or lines of tables (default: all)")
    parser.add_argument(
        "--prompts",
        type=int,
        default=400,
        help="captions of each kind for a line whose rate has a bar (%(default)s); for others a quarter",
    )
    parser.add_argument("--batch-size", type=int, default=20, help="pictures of a run (%(default)s)")
    parser.add_argument("--output", type=Path, default=ROOT / "demo" / "evidence.json", help="JSON to go on with (%(default)s)")
    parser.add_argument("--table", action="store_true", help="only print what was measured")
    arguments = parser.parse_args()
    if arguments.table:
        print(tables(json.loads(arguments.output.read_text())))
        return
    with GuardedPipeline(arguments.engine_dir) as pipeline:
        document = _begun(pipeline, arguments)
        measured = {(line["about"], line["table"], line["name"]) for line in document["lines"]}
        measure = Measurement(pipeline, arguments.prompts, arguments.batch_size)
        for about, question in _asked(pipeline, arguments):
            if (about, question.table, question.name) not in measured:
                document["lines"].append({"about": about, "table": question.table, "name": question.name, **measure(question)})
                print(_text(document["lines"][-1]), flush=True)
                keep(document, arguments.output)


def _asked(pipeline: GuardedPipeline, arguments: argparse.Namespace) -> list[tuple[str, Question]]:
    """Questions, each with the section that it is of: a concept, or all of them together."""
    guarded = [guard.concept for guard in pipeline.manifest.guards]
    asked = [(concept, question) for concept in arguments.concept or guarded for question in questions(concept)]
    if not arguments.concept and {*CONCEPTS} <= {*guarded}:
        asked += [("several concepts", question) for question in together()]
    if arguments.only:
        asked = [(about, question) for about, question in asked if {question.table, question.name} & {*arguments.only}]
    return asked


def _begun(pipeline: GuardedPipeline, arguments: argparse.Namespace) -> dict[str, Any]:
    """What the output holds, with the guards of these engines beside those of the engines before.

    Raises InputError where another guard of a concept, another kind of engines or another number of prompts gave it.
    """
    about = {
        "command": "python demo/evidence.py",
        "options": OPTIONS,
        "engines": f"{pipeline.manifest.backend}, {pipeline.manifest.precision}",
        "prompts": arguments.prompts,
    }
    document = resumed(arguments.output, about, "lines")
    guards = document.setdefault("guards", {})
    for guard in pipeline.manifest.guards:
        found = {"digest": guard.digest, "policy": vars(guard.policy)}
        if guards.setdefault(guard.concept, found) != found:
            raise InputError(
                f"{arguments.output}: expected the guard of {guard.concept} {found}, found {guards[guard.concept]}; "
                "give another --output"
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
