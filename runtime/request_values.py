"""Values of a request, read strictly by type: what may be given for each image, and what is said of all."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeVar

from engines.errors import InputError
from engines.geometry import LARGEST_SIDE
from engines.noise import check_seed
from engines.policy import CHECKS, OFF, Off, Policy
from engines.printable import shown
from engines.values import integer, number, text
from runtime.judge import WHEN_UNSAFE

ON_UNSAFE = tuple(WHEN_UNSAFE)
ON_STILL_UNSAFE = ("withhold", "deliver")
FORCED_VERDICTS = ("safe", "unsafe")
MOST_IMAGES = 1_000  # of a prompt
Value = TypeVar("Value")
Policies = Policy | Mapping[str, Policy | Off] | None  # of one image: for every concept, or by concept


def one_of(allowed: tuple[str, ...]) -> Callable[[str, object], str]:
    """Reads one of these words."""

    def read(name: str, value: object) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise InputError(f"{name}: expected one of {', '.join(allowed)}, found {shown(value)}")
        return value

    return read


def _check(name: str, value: object) -> str | None:
    return None if value is None else one_of(CHECKS)(name, value)


def _clip_skip(name: str, value: object) -> int:
    layers = integer(name, value)
    if layers < 0:
        raise InputError(f"{name}: expected at least 0, found {shown(layers)}")
    return layers


def _seed(name: str, value: object) -> int | None:
    if value is None:
        return None
    seed = integer(name, value)
    check_seed(seed)
    return seed


def _name(name: str, value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise InputError(f"{name}: expected a name, found {shown(value)}")
    return None if value is None else text(name, value)


def _eta(name: str, value: object) -> float:
    eta = number(name, value)
    if not 0 <= eta < math.inf:
        raise InputError(f"{name}: expected a number of at least 0, found {shown(value)}")
    return eta


def _policies(name: str, value: object) -> Policies:
    if value is None or isinstance(value, Policy):
        return value
    if not isinstance(value, Mapping):
        raise InputError(f"{name}: expected runtime.Policy, or one for each concept by its name, found {shown(value)}")
    return {text(f"{name}: concept", concept): _policy(f"{name} of {shown(concept)}", policy) for concept, policy in value.items()}


def _policy(name: str, value: object) -> Policy | Off:
    if isinstance(value, Policy):
        return value
    if isinstance(value, str) and value == OFF:
        return OFF
    raise InputError(f"{name}: expected runtime.Policy or {OFF!r}, found {shown(value)}")


# What may differ from image to image, with what reads one value. A single value is for all images.
PER_IMAGE: dict[str, Callable[[str, object], object]] = {
    "negative_prompt": text,
    "clip_skip": _clip_skip,
    "num_inference_steps": integer,
    "guidance_scale": number,
    "seed": _seed,
    "scheduler": _name,
    "schedule_type": _name,
    "eta": _eta,
    "policy": _policies,
    "on_unsafe": one_of(ON_UNSAFE),
    "on_still_unsafe": one_of(ON_STILL_UNSAFE),
    "check": _check,
}


def one_or_more(name: str, value: object, read: Callable[[str, object], Value]) -> Value | tuple[Value, ...]:
    """One value, or those of a list as a tuple."""
    if not isinstance(value, list | tuple):
        return read(name, value)
    copied = tuple(value)
    if not copied:
        raise InputError(f"{name}: expected one value or more, found an empty list")
    return tuple(read(name, each) for each in copied)


def images_per_prompt(name: str, value: object) -> int:
    images = integer(name, value)
    if not 1 <= images <= MOST_IMAGES:
        raise InputError(f"{name}: expected 1 to {MOST_IMAGES}, found {shown(images)}")
    return images


def side(name: str, value: object) -> int | None:
    """A height or width."""
    if value is None:
        return None
    size = integer(name, value)
    if size > LARGEST_SIDE:
        raise InputError(f"{name}: expected at most {LARGEST_SIDE} pixels, found {shown(size)}")
    return size
