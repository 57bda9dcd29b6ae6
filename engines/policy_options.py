"""The guard's numbers as options of a command: one for each field of `Policy`, for every concept, and --policy for single ones."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from engines.errors import InputError
from engines.policy import OFF, TYPES, Off, Policy
from engines.printable import shown

FIELDS = {field.name.replace("_", "-"): field for field in dataclasses.fields(Policy)}
FORM = "CONCEPT:NAME=VALUE[,NAME=VALUE]"


def add_policy_arguments(parser: argparse.ArgumentParser, default: str, may_be_off: bool) -> None:
    """Add --alpha-scale, --threshold, … and --policy.

    `default` is what the help says of an option that is not given, {} being the number; `may_be_off` whether it says how a concept
    is switched off.
    """
    group = parser.add_argument_group("policy", "the guard's numbers, for every concept; --policy changes those of one")
    for name, field in FIELDS.items():
        value = "that of --threshold" if field.default is None else field.default
        text = f"{field.metadata['help']} (default: {default.format(value)})"
        group.add_argument(f"--{name}", type=TYPES[field.name], choices=field.metadata.get("choices"), help=text)
    group.add_argument(
        "--policy",
        action="append",
        default=[],
        metavar=FORM,
        help="numbers of one concept, as fire:threshold=0.3,replace-steps=1; may be given several times"
        + ("; fire:off does not guard against it" if may_be_off else ""),
    )


def given_policies(arguments: argparse.Namespace, defaults: Mapping[str, Policy]) -> dict[str, Policy | Off]:
    """The policy of each concept of which something was given; `defaults` has every concept, with what was not given.

    Raises:
        InputError: a --policy is of another form, of no such concept, given twice, or has a number out of its range.
    """
    for_all = {field.name: value for field in FIELDS.values() if (value := getattr(arguments, field.name)) is not None}
    for_one = _by_concept(arguments.policy, defaults)
    found: dict[str, Policy | Off] = {}
    for concept, default in defaults.items():
        numbers = for_one.get(concept, {})
        if OFF in numbers:
            if len(numbers) > 1:
                raise InputError(f"--policy: expected {concept} off or with numbers, found both")
            found[concept] = OFF
        elif for_all or numbers:
            found[concept] = dataclasses.replace(default, **{**for_all, **numbers})
    return found


def _by_concept(texts: list[str], concepts: Mapping[str, Policy]) -> dict[str, dict[str, Any]]:
    """What each --policy says, by concept and field; OFF as a field of its own."""
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        concept, colon, settings = text.partition(":")
        if not colon:
            raise InputError(f"--policy: expected {FORM} or CONCEPT:{OFF}, found {shown(text)}")
        if concept not in concepts:
            raise InputError(f"--policy: expected a concept of {', '.join(concepts) or 'none'}, found {shown(concept)}")
        numbers = found.setdefault(concept, {})
        for setting in settings.split(","):
            name, value = (OFF, None) if setting == OFF else _number(setting, text)
            if name in numbers:
                raise InputError(f"--policy: expected {shown(setting)} once for {concept}, found it twice")
            numbers[name] = value
    return found


def _number(setting: str, text: str) -> tuple[str, Any]:
    """NAME=VALUE as a field of Policy and its value."""
    name, _, value = setting.partition("=")
    if name not in FIELDS:
        names = ", ".join(FIELDS)
        raise InputError(f"--policy {shown(text)}: expected NAME=VALUE, NAME of {names}, or {OFF}, found {shown(setting)}")
    field = FIELDS[name]
    kind: Callable[[str], Any] = TYPES[field.name]
    try:
        return field.name, kind(value)
    except ValueError:
        raise InputError(f"--policy {shown(text)}: {name}: expected a number, found {shown(value)}") from None
