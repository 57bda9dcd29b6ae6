"""Options of `saferedir build --precision int8`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from engines.errors import InputError
from engines.pairs import read_prompts_or_pairs
from export.build_request import Checkpoint
from export.precision.names import precision_name
from export.quantization import NEUTRAL_PROMPTS, Quantization

OPTIONS = ("calibration_prompts", "gate_prompts", "judge")


def add_int8_arguments(group: argparse._ArgumentGroup) -> None:
    """The options, each None where it is not given."""
    group.add_argument(
        "--calibration-prompts",
        type=Path,
        metavar="FILE",
        help="measure ranges on these, one a line, or pairs in .json or .csv (default: the demo's for the demo, else neutral ones)",
    )
    group.add_argument(
        "--gate-prompts",
        type=Path,
        metavar="FILE",
        help="accept the engines only if they decide as float32's on these (default: the canaries)",
    )
    group.add_argument(
        "--judge",
        metavar="MODULE:FUNCTION",
        help="says whether a picture shows the concept: engines are accepted only if no more guarded pictures do than float32's",
    )


def quantization_of(
    arguments: argparse.Namespace, checkpoints: Sequence[Checkpoint], calibration: Path | None
) -> Quantization | None:
    """What the arguments ask for; None for another precision. `calibration` is the file that is used where none is given.

    Raises:
        InputError: an option has no use.
    """
    given = [f"--{name.replace('_', '-')}" for name in OPTIONS if getattr(arguments, name) is not None]
    if precision_name(arguments.precision) != "int8":
        if given:
            raise InputError(f"{given[0]}: for --precision int8 only, found --precision {arguments.precision}")
        return None
    for name in ("gate_prompts", "judge"):
        if not checkpoints and getattr(arguments, name) is not None:
            raise InputError(f"--unguarded and --{name.replace('_', '-')}: expected one of them, found both")
    calibration = arguments.calibration_prompts or calibration
    canaries = dict.fromkeys(canary.prompt for checkpoint in checkpoints for canary in checkpoint.canaries)
    return Quantization(
        arguments.record_inputs,
        arguments.compare_decisions,
        NEUTRAL_PROMPTS if calibration is None else tuple(read_prompts_or_pairs(calibration)),
        tuple(canaries) if arguments.gate_prompts is None else tuple(read_prompts_or_pairs(arguments.gate_prompts)),
        arguments.judge or "",
    )
