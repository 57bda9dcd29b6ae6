"""List the samplers: their names, the schedule types that each takes, and the options of a scheduler_config.json that it reads.

Any name of a sampler works with --scheduler, alone or with a schedule type after it. Case, spaces and underscores do not matter.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Mapping

from engines.errors import InputError
from engines.exit_status import DONE
from engines.printable import shown
from runtime.samplers.names import REFUSED
from runtime.samplers.options import ETA, NOT_IN_CONFIGS, absent, off
from runtime.samplers.registry import SAMPLERS, schedule_types


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("name", nargs="*", help=f"of {', '.join(SAMPLERS)} (default: all)")


def run(arguments: argparse.Namespace) -> int:
    """Print the list; exit status 0."""
    if unknown := [name for name in arguments.name if name not in SAMPLERS]:
        raise InputError(f"name: expected some of {', '.join(SAMPLERS)}, found {shown(unknown[0])}")
    print("\n\n".join(described(name) for name in arguments.name or SAMPLERS))
    if not arguments.name:
        print("\nNot available:")
        for name, (why, nearest) in REFUSED.items():
            print(f"  {name}: {why}; nearest: {nearest}")
    return DONE


def described(name: str) -> str:
    """A sampler in words."""
    row = SAMPLERS[name]
    refused = [option for option, each in row.options.items() if each.read in (off, absent)]
    facts = {
        "also called": [row.class_name, *(alias + _standing_for(chosen) for alias, chosen in row.aliases.items())],
        "schedule types": schedule_types(name),
        "honours": [option for option in row.options if option not in (*refused, *NOT_IN_CONFIGS)],
        "refuses": refused,
        "takes": ["--eta"] if ETA in row.options else [],
    }
    lines = [f"  {label}: {', '.join(words)}" for label, words in facts.items() if words]
    return "\n".join([name, *(textwrap.fill(line, 100, subsequent_indent="    ") for line in lines)])


def _standing_for(chosen: Mapping[str, object]) -> str:
    return f" ({', '.join(f'{option} {value}' for option, value in chosen.items())})" if chosen else ""
