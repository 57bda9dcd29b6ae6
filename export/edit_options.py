"""What is laid over a model's weights, as options of a command."""

from __future__ import annotations

import argparse
from pathlib import Path

from export.sources.edits import Edit, Lora, Replacement

REPLACEABLE = ("unet", "text_encoder")  # components whose weights other files may replace


def add_edit_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --unet-weights, --text-encoder-weights and --lora."""
    for component in REPLACEABLE:
        parser.add_argument(
            f"--{component.replace('_', '-')}-weights",
            type=Path,
            metavar="FILE",
            help=f"weights in place of the {component.replace('_', ' ')}'s, all or some: an unlearned model's, say",
        )
    parser.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="FILE[:SCALE]",
        help="merge a LoRA into the model: kohya, diffusers or PEFT layout; may be given several times (default scale: 1)",
    )


def given_edits(arguments: argparse.Namespace) -> tuple[Edit, ...]:
    """The edits that were given, in the order in which they are laid over weights. Raises InputError for a scale that is none."""
    given = {component: getattr(arguments, f"{component}_weights") for component in REPLACEABLE}
    replaced = [Replacement(file, component) for component, file in given.items() if file is not None]
    return (*replaced, *(Lora.parse(text) for text in arguments.lora))
