"""Train a guard for a model from pairs of prompts, one safe and one unsafe, that differ in the concept only."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from engines.errors import InputError
from engines.printable import shown
from export.edit_options import add_edit_arguments, given_edits
from training.request import TrainingRequest
from training.settings import ModelChoice, TrainingSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--model", required=True, help="diffusers folder, single file or hub id, as saferedir build takes it")
    parser.add_argument("--config", type=Path, metavar="FOLDER", help="for a single file: as saferedir build takes it")
    parser.add_argument("--vae", metavar="DIR|FILE|ID", help="decode with this autoencoder (default: the model's)")
    add_edit_arguments(parser)
    parser.add_argument(
        "--pairs",
        type=Path,
        action="append",
        required=True,
        metavar="FILE",
        help='JSON list of {"safe": …, "unsafe": …}, or CSV with the header safe,unsafe; may be given several times',
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where guard, card and trajectories go")
    parser.add_argument("--concept", default="", help="what the guard forgets (default: the output folder's name)")
    parser.add_argument(
        "--judge",
        metavar="MODULE:FUNCTION",
        help="Python function that says of a picture, uint8 [H, W, 3], whether it shows the concept (default: prompts label)",
    )
    parser.add_argument(
        "--benign",
        type=Path,
        metavar="FILE",
        help="benign prompts, one a line, for the threshold (default: held-out safe prompts)",
    )
    parser.add_argument(
        "--safe-prompts",
        type=Path,
        metavar="FILE",
        help="more safe prompts to train on, one a line: those that share words with unsafe ones",
    )
    parser.add_argument("--wordings", type=Path, metavar="FILE", help='other wordings: JSON, {"phrase": ["other wording", …]}')
    parser.add_argument(
        "--attack-words",
        type=Path,
        metavar="FILE",
        help="words that adversarial rounds may write, one a line (default: those of the tokenizer)",
    )
    parser.add_argument("--init", type=Path, metavar="FILE", help="train this checkpoint's heads further, .pt or .safetensors")
    parser.add_argument("--encoder-widths", metavar="A,B,C", help="of the latent encoder (default: 64,128,256)")
    parser.add_argument("--device", default=TrainingRequest.device, help="PyTorch's name of it, as cuda (default: %(default)s)")
    _add_numbers(parser.add_argument_group("numbers"))


def _add_numbers(group: argparse._ArgumentGroup) -> None:
    """One option for each field of `TrainingSettings`, which has their defaults and help texts."""
    for field in dataclasses.fields(TrainingSettings):
        text = f"{field.metadata['help']} (default: {field.default})"
        group.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default, help=text)


def request(arguments: argparse.Namespace) -> TrainingRequest:
    """The request of a command line. Raises InputError for options that contradict each other or are out of range."""
    settings = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(TrainingSettings)}
    names = ("output", "judge", "benign", "safe_prompts", "wordings", "attack_words", "concept", "init", "device")
    return TrainingRequest(
        model=ModelChoice(arguments.model, arguments.config, arguments.vae, given_edits(arguments)),
        pairs=tuple(arguments.pairs),
        settings=TrainingSettings(**settings),
        encoder_widths=_widths(arguments.encoder_widths),
        **{name: getattr(arguments, name) for name in names},
    )


def _widths(text: str | None) -> tuple[int, int, int] | None:
    if text is None:
        return None
    try:
        first, second, third = map(int, text.split(","))
    except ValueError:
        raise InputError(f"--encoder-widths: expected three numbers as 64,128,256, found {shown(text)}") from None
    return first, second, third


def run(arguments: argparse.Namespace) -> int:
    """Train; exit status 0."""
    asked = request(arguments)
    from training.train import train_guard

    card = train_guard(asked)
    print(f"{asked.output}: guard.safetensors, guard.pt, card.json and README.md; threshold {card.threshold.threshold:g}")
    print(f"saferedir build --model {asked.model.model} --redirector {asked.output / 'guard.safetensors'}")
    return 0
