"""The guard that a build is asked for: its checkpoints in order, with what the command line says of each, else its metadata."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from engines.errors import InputError
from engines.policy import CHECKS, OFF, Policy
from engines.policy_options import add_policy_arguments, given_policies
from engines.values import concept
from export.build_request import BuildRequest, Checkpoint
from export.canaries import read_canaries
from saferedir.metadata import Metadata, read_metadata

STRICTEST_FIRST = ("before", "auto", "beside")  # of CHECKS; auto is before for few steps


def add_guard_arguments(parser: argparse.ArgumentParser) -> None:
    """What the guard is made of, and how it acts unless a call says otherwise."""
    group = parser.add_argument_group("guard", "--redirector and --concept may be given several times: one guard, several concepts")
    group.add_argument(
        "--redirector",
        type=Path,
        action="append",
        metavar="FILE",
        help="SafeRedir checkpoint, .pt or .safetensors (default: the demo's)",
    )
    group.add_argument(
        "--concept",
        action="append",
        metavar="NAME",
        help="what the guard forgets, for reports; one for each --redirector, in order (default: the checkpoint's)",
    )
    group.add_argument("--unguarded", action="store_true", help="build without a guard; such engines only generate unguarded")
    group.add_argument("--mask-again", action="store_true", help="apply the token mask once more after normalising the shift")
    group.add_argument(
        "--check",
        choices=CHECKS,
        help="when the guard looks: before or beside the UNet of a step; auto: before for few steps "
        f"(default: the checkpoint's, of several the strictest, else {BuildRequest.check})",
    )
    group.add_argument(
        "--canaries",
        type=Path,
        metavar="FILE",
        help="JSON with prompts that the guard must judge rightly, see docs/guarding.md (default: the checkpoint's)",
    )
    add_policy_arguments(parser, default="the checkpoint's, else {}", may_be_off=False)


def checkpoints(arguments: argparse.Namespace, files: Sequence[Path], names: Sequence[str]) -> tuple[tuple[Checkpoint, ...], str]:
    """The checkpoint of each concept, and when their guard looks; `names` has one for each file, or none.

    Raises:
        InputError: a checkpoint cannot be read, names do not fit the files, or an option is for no concept of theirs.
    """
    found = [read_metadata(file) for file in files]
    concepts = _concepts(files, names, found)
    defaults = {name: metadata.policy for name, metadata in zip(concepts, found, strict=True)}
    policies = given_policies(arguments, defaults)
    canaries = {} if arguments.canaries is None else read_canaries(arguments.canaries, concepts)

    def policy(name: str) -> Policy:
        if (given := policies.get(name, defaults[name])) == OFF:
            raise InputError(f"--policy {name}:{OFF}: expected numbers; off is said to saferedir generate, call by call")
        return given

    return tuple(
        Checkpoint(
            file,
            name,
            arguments.mask_again,
            policy=policy(name),
            final_check=metadata.final_check,
            canaries=canaries.get(name, tuple(metadata.canaries)),
        )
        for file, name, metadata in zip(files, concepts, found, strict=True)
    ), arguments.check or _strictest(concepts, [metadata.check for metadata in found])


def _concepts(files: Sequence[Path], names: Sequence[str], found: Sequence[Metadata]) -> list[str]:
    """Each file's concept: as named, else as its metadata says, else the file's own name."""
    if names and len(names) != len(files):
        raise InputError(f"--concept: expected one for each of {len(files)} checkpoints, or none, found {len(names)}")
    named = names or [metadata.concept or file.stem for file, metadata in zip(files, found, strict=True)]
    concepts: dict[str, Path] = {}
    for file, name in zip(files, named, strict=True):
        if name in concepts:
            raise InputError(f"{file}: expected a concept of its own, found {name!r}, as for {concepts[name]}; choose --concept")
        concepts[concept(f"{file}: --concept", name)] = file
    return [*concepts]


def _strictest(concepts: Sequence[str], checks: Sequence[str]) -> str:
    """When a guard looks whose checkpoints say so; what they disagree on is printed."""
    if not checks:
        return BuildRequest.check
    chosen = min(checks, key=STRICTEST_FIRST.index)
    if len(set(checks)) > 1:
        each = ", ".join(f"{name} {check}" for name, check in zip(concepts, checks, strict=True))
        print(f"check: {chosen} for all concepts, the strictest of their checkpoints' ({each})")
    return chosen
