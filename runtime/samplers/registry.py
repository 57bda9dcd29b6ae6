"""The samplers, one row each: names, diffusers' class names, error messages and help texts follow from here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from runtime.samplers.ddim import ddim
from runtime.samplers.lms import lms
from runtime.samplers.pndm import pndm
from runtime.samplers.recurrence import Recurrence
from runtime.samplers.schedules import NoiseSchedule, SchedulerError


@dataclass(frozen=True)
class Sampler:
    """`solve` takes a step count and a schedule and gives the fields of `Recurrence` after its name, in float64."""

    class_name: str
    solve: Callable[[int, NoiseSchedule], tuple[np.ndarray, np.ndarray] | tuple[np.ndarray, np.ndarray, float, float]]


SAMPLERS = {
    "ddim": Sampler("DDIMScheduler", ddim),
    "pndm": Sampler("PNDMScheduler", pndm),
    "lms": Sampler("LMSDiscreteScheduler", lms),
}


def recurrence(name: str, num_inference_steps: int, schedule: NoiseSchedule) -> Recurrence:
    """Recurrence of sampler `name` (ours or the name of diffusers' class), equal to the diffusers scheduler of that name
    made from the same config with `from_config`. Computed in float64.

    Raises SchedulerError for an unknown name, a step count outside 1 … T, timesteps outside 0 … T−1 (where diffusers
    fails or reads the wrong end of its arrays), and options of the schedule that the sampler does not have.
    """
    ours = {sampler.class_name: short for short, sampler in SAMPLERS.items()}.get(name, name)
    if ours not in SAMPLERS:
        raise SchedulerError(f"unknown sampler {name!r}: expected one of {', '.join(SAMPLERS)}")
    total = schedule.num_train_timesteps
    if isinstance(num_inference_steps, bool) or not isinstance(num_inference_steps, (int, np.integer)):
        raise SchedulerError(f"num_inference_steps: expected an integer, found {num_inference_steps!r}")
    if not 1 <= num_inference_steps <= total:
        raise SchedulerError(f"num_inference_steps: expected 1 to {total} (training steps), found {num_inference_steps}")
    return Recurrence(ours, *SAMPLERS[ours].solve(int(num_inference_steps), schedule))
