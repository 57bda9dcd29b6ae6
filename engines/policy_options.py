"""The guard's numbers as options of a command: one for each field of `Policy`, which has their defaults and help texts."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from engines.policy import Policy


def add_policy_arguments(parser: argparse.ArgumentParser, default: str) -> None:
    """Add --alpha-scale, --threshold, …; `default` is what the help says of an option that is not given, {} being the number."""
    group = parser.add_argument_group("policy", "the guard's numbers")
    for field in dataclasses.fields(Policy):
        text = f"{field.metadata['help']} (default: {default.format(field.default)})"
        choices = field.metadata.get("choices")
        group.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), choices=choices, help=text)


def given_policy(arguments: argparse.Namespace) -> dict[str, Any]:
    """The numbers that were given, by field."""
    values = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(Policy)}
    return {name: value for name, value in values.items() if value is not None}
