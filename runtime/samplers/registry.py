"""The samplers, one row each: names, diffusers' class names, error messages and help texts follow from here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime.samplers.ddim import check_ddim, ddim
from runtime.samplers.lms import check_lms, lms
from runtime.samplers.pndm import check_pndm, pndm
from runtime.samplers.recurrence import Recurrence
from runtime.samplers.schedules import NoiseSchedule, SchedulerError


def _accept(schedule: NoiseSchedule) -> None:
    """For a sampler that honours every schedule."""


@dataclass(frozen=True)
class Sampler:
    """`solve` takes a step count and a schedule and gives the fields of `Recurrence` after its name, in float64.

    `check` raises SchedulerError for options of a schedule that the class in diffusers reads and `solve` cannot honour.
    """

    class_name: str
    solve: Callable[[int, NoiseSchedule], tuple[np.ndarray, np.ndarray] | tuple[np.ndarray, np.ndarray, float, float]]
    check: Callable[[NoiseSchedule], None] = _accept


SAMPLERS = {
    "ddim": Sampler("DDIMScheduler", ddim, check_ddim),
    "pndm": Sampler("PNDMScheduler", pndm, check_pndm),
    "lms": Sampler("LMSDiscreteScheduler", lms, check_lms),
}


def judge_scheduler(config: Mapping[str, Any]) -> str | None:
    """Whether the scheduler that a model comes with can be honoured: None, or why not and which samplers can be chosen.

    Raises SchedulerError where none can.
    """
    schedule = NoiseSchedule.from_config(config)
    try:
        _checked(schedule.class_name, schedule)
    except SchedulerError as error:
        if not _able(schedule):
            raise
        return f"the model's own scheduler cannot be used: {error}"
    return None


def _checked(name: str, schedule: NoiseSchedule) -> str:
    """Our name of a sampler that honours the schedule. Raises SchedulerError, which names those that do."""
    ours = {sampler.class_name: short for short, sampler in SAMPLERS.items()}.get(name, name)
    try:
        if ours not in SAMPLERS:
            raise SchedulerError(f"unknown sampler {name!r}: expected one of {', '.join(SAMPLERS)}")
        SAMPLERS[ours].check(schedule)
    except SchedulerError as error:
        if not (able := _able(schedule)):
            raise
        raise SchedulerError(f"{error}; choose one that works with this model: --scheduler {' or '.join(able)}") from None
    return ours


def _able(schedule: NoiseSchedule) -> list[str]:
    """Names of the samplers that honour the schedule."""
    able = []
    for name, sampler in SAMPLERS.items():
        try:
            sampler.check(schedule)
        except SchedulerError:
            continue
        able.append(name)
    return able


def recurrence(name: str, num_inference_steps: int, schedule: NoiseSchedule) -> Recurrence:
    """Recurrence of sampler `name` (ours or the name of diffusers' class), equal to the diffusers scheduler of that name
    made from the same config with `from_config`. Computed in float64.

    Raises SchedulerError for an unknown name, a step count outside 1 … T, timesteps outside 0 … T−1 (where diffusers
    fails or reads the wrong end of its arrays), and options of the schedule that the sampler does not have.
    """
    ours = _checked(name, schedule)
    total = schedule.num_train_timesteps
    if isinstance(num_inference_steps, bool) or not isinstance(num_inference_steps, (int, np.integer)):
        raise SchedulerError(f"num_inference_steps: expected an integer, found {num_inference_steps!r}")
    if not 1 <= num_inference_steps <= total:
        raise SchedulerError(f"num_inference_steps: expected 1 to {total} (training steps), found {num_inference_steps}")
    return Recurrence(ours, *SAMPLERS[ours].solve(int(num_inference_steps), schedule))
