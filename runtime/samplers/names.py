"""Names that people know samplers by: spellings, schedule types, and what has no linear recurrence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engines.printable import shown
from runtime.samplers.options import RESPACINGS, SchedulerError

Chosen = dict[str, Any]  # options that a name stands for, before those of the model's config


def spelling(name: str) -> str:
    """A name as it is compared: case, spaces, underscores and ++ or pp do not matter."""
    return " ".join(name.casefold().replace("++", "pp").replace("_", " ").split())


def _respacing(option: str | None, **others: Any) -> Chosen:
    return {**{name: name == option for name in RESPACINGS}, **others}


# As clients of AUTOMATIC1111's API send them, beside a sampler or at the end of its name.
SCHEDULE_TYPES: dict[str, Chosen] = {
    "automatic": {},
    "karras": _respacing("use_karras_sigmas"),
    "exponential": _respacing("use_exponential_sigmas"),
    "beta": _respacing("use_beta_sigmas"),
    "align your steps": _respacing("use_ays_sigmas"),
    "sgm uniform": _respacing(None, timestep_spacing="trailing"),
    "simple": _respacing(None, timestep_spacing="trailing"),
    "normal": _respacing(None, timestep_spacing="linspace"),
    "uniform": _respacing(None, timestep_spacing="linspace"),
    "ddim": _respacing(None, timestep_spacing="leading"),
    "ddim uniform": _respacing(None, timestep_spacing="leading"),
}

# Not linear in their state, or unknown to diffusers: why, and the nearest that works.
REFUSED = {
    "DPMSolverSDEScheduler": ("its noise is a Brownian tree's", "DPM++ SDE"),
    "CosineDPMSolverMultistepScheduler": ("its noise is a Brownian tree's", "DPM++ 2M SDE"),
    "DPM adaptive": ("its steps are adaptive", "DPM++ 2M"),
    "DPM fast": ("diffusers has no such sampler", "DPM++ 2M"),
    "DPM++ 2S a": ("diffusers has no such sampler", "DPM++ SDE"),
    "Restart": ("diffusers has no such sampler", "Heun"),
}


def schedule_type(name: str) -> Chosen:
    """Options of a schedule type. Raises SchedulerError for an unknown one."""
    try:
        return SCHEDULE_TYPES[spelling(name)]
    except KeyError:
        raise SchedulerError(f"schedule_type: expected one of {', '.join(SCHEDULE_TYPES)}, found {shown(name)}") from None


def respacing_of(options: Mapping[str, Any]) -> str | None:
    """The schedule type that respaces the noise levels of a sampler with these options; None where none does."""
    on = [option for option in RESPACINGS if options.get(option)]
    return next((name for name, chosen in SCHEDULE_TYPES.items() if any(chosen.get(option) for option in on)), None)


def split(name: str) -> tuple[str, str]:
    """The spelling of the sampler in "DPM++ 2M Karras", and its schedule type; "automatic" where a name ends in none."""
    spelled = spelling(name)
    for ending in sorted(SCHEDULE_TYPES, key=len, reverse=True):
        if spelled.endswith(" " + ending):
            return spelled[: -len(ending) - 1], ending
    return spelled, "automatic"


def require_linear(name: str) -> None:
    """Raise SchedulerError for a sampler that is known and cannot be a recurrence."""
    for refused, (why, nearest) in REFUSED.items():
        if spelling(refused) == split(name)[0]:
            raise SchedulerError(
                f"sampler {shown(name)}: expected one that is linear in its state, found that {why}; nearest: {nearest!r}"
            )
