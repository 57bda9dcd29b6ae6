"""Options of a scheduler's config, and the values that they may have. Knows nothing of solvers.

An option that changes the samples and has no place in a linear recurrence may have one value only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from engines.errors import InputError
from engines.printable import shown

MOST_TRAINING_STEPS = 100_000


class SchedulerError(InputError):
    """A scheduler option, sampler name or step count that cannot be honoured; the text says which, expected and found."""

    @classmethod
    def for_option(cls, option: str, expected: object, value: object) -> SchedulerError:
        return cls(f"scheduler option {option}: expected {expected}, found {shown(value)}")


@dataclass(frozen=True)
class Option:
    """`default` is that of the class in diffusers; `read(name, value)` gives the value to use, or raises SchedulerError."""

    default: Any
    read: Callable[[str, Any], Any]


def read_options(options: Mapping[str, Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """The value of every option. What is given and not among `options` is ignored, as diffusers does for another class's.

    Raises SchedulerError for a value that cannot be honoured.
    """
    values = {}
    for name, option in options.items():
        try:
            values[name] = option.read(name, given.get(name, option.default))
        except SchedulerError as error:
            if name in given:
                raise
            raise SchedulerError(f"{error}: the config has no entry, and this is the default; write one") from None
    return values


def switch(name: str, value: Any) -> bool:
    """On or off; as in diffusers, whatever Python takes for true is on."""
    return bool(value)


def off(name: str, value: Any) -> bool:
    """An option that must be off."""
    if value:
        raise SchedulerError.for_option(name, False, value)
    return False


def absent(name: str, value: Any) -> None:
    """An option that must have no value."""
    if value is not None:
        raise SchedulerError.for_option(name, "no value", value)


def one_of(*allowed: str, read_as: Mapping[str, str] | None = None) -> Callable[[str, Any], str]:
    """One of these words; `read_as` has other classes' words for which the class in diffusers takes one of its own."""

    def read(name: str, value: Any) -> str:
        if isinstance(value, str):
            value = (read_as or {}).get(value, value)
            if value in allowed:
                return str(value)
        raise SchedulerError.for_option(name, "one of " + ", ".join(allowed), value)

    return read


def integer(lowest: int, highest: int | None = None) -> Callable[[str, Any], int]:
    """An integer of a range, its ends included."""
    expected = f"an integer of at least {lowest}" if highest is None else f"an integer of {lowest} to {highest}"

    def read(name: str, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < lowest or (highest is not None and value > highest):
            raise SchedulerError.for_option(name, expected, value)
        return value

    return read


def number(lowest: float, highest: float) -> Callable[[str, Any], float]:
    """A number of a range, its ends included."""

    def read(name: str, value: Any) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not lowest <= value <= highest:
            raise SchedulerError.for_option(name, f"a number of {lowest} to {highest}", value)
        return float(value)

    return read


def or_none(read: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    """What `read` takes, or null."""
    return lambda name, value: None if value is None else read(name, value)


def _betas(name: str, value: Any) -> tuple[float, ...]:
    try:
        return tuple(np.asarray(value, np.float32).reshape(-1).tolist())
    except (ValueError, TypeError, OverflowError):
        raise SchedulerError.for_option(name, "a list of numbers", type(value).__name__) from None


EPSILON, V_PREDICTION, SAMPLE = "epsilon", "v_prediction", "sample"
PREDICTION_TYPES = (EPSILON, V_PREDICTION, SAMPLE)


def training(
    predictions: tuple[str, ...] = PREDICTION_TYPES,
    beta_start: float = 0.0001,
    beta_end: float = 0.02,
    beta_schedule: str = "linear",
) -> dict[str, Option]:
    """Of the noise that the model was trained with, and of what it predicts."""
    return {
        "num_train_timesteps": Option(1000, integer(1, MOST_TRAINING_STEPS)),
        "beta_start": Option(beta_start, number(0, 1)),
        "beta_end": Option(beta_end, number(0, 1)),
        "beta_schedule": Option(beta_schedule, one_of("linear", "scaled_linear", "squaredcos_cap_v2")),
        "trained_betas": Option(None, or_none(_betas)),
        "prediction_type": Option(EPSILON, one_of(*predictions)),
    }


def spacing(default: str) -> dict[str, Option]:
    """Of the timesteps of a run."""
    words = one_of("leading", "trailing", "linspace")
    return {"timestep_spacing": Option(default, words), "steps_offset": Option(0, integer(0))}


ZERO_SNR = {"rescale_betas_zero_snr": Option(False, switch)}
# At most one is on. `use_ays_sigmas` (Align Your Steps) is no option of diffusers' classes: only a schedule type sets it.
RESPACINGS = {
    name: Option(False, switch) for name in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_ays_sigmas")
}
SIGMA_RANGE = {name: Option(None, or_none(number(1e-6, 1e6))) for name in ("sigma_min", "sigma_max")}
NOT_FLOW = {"use_flow_sigmas": Option(False, off), "use_dynamic_shifting": Option(False, off)}
NOT_THRESHOLDED = {"thresholding": Option(False, off)}
LOWER_ORDER_FINAL = {"lower_order_final": Option(True, switch)}
FINAL_SIGMA = {"final_sigmas_type": Option("zero", one_of("zero", "sigma_min"))}
# η, the share of fresh noise, is no option of a config: a call sets it.
ETA = "eta"
NOT_IN_CONFIGS = (ETA, "use_ays_sigmas")


def clip_sample(default: bool) -> dict[str, Option]:
    """Clipping is not linear."""
    return {"clip_sample": Option(default, off)}
