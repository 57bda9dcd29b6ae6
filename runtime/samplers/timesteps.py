"""Timesteps of a run by spacing (Lin et al. 2024, Table 2)."""

from __future__ import annotations

import numpy as np

from runtime.samplers.options import SchedulerError
from runtime.samplers.schedules import NoiseSchedule


def spaced(steps: int, schedule: NoiseSchedule) -> np.ndarray:
    """Descending timesteps int64 [steps] of the samplers that step from timestep to timestep. Only leading spacing has the offset.

    Raises SchedulerError for timesteps outside 0 … T−1.
    """
    total = schedule.num_train_timesteps
    if schedule["timestep_spacing"] == "leading":
        timesteps = np.arange(steps)[::-1] * (total // steps) + schedule["steps_offset"]
    elif schedule["timestep_spacing"] == "trailing":
        timesteps = trailing(total, total / steps)
    else:
        timesteps = np.linspace(0, total - 1, steps).round()[::-1].astype(np.int64)
    return inside(timesteps, steps, schedule)


def trailing(last: int, stride: float) -> np.ndarray:
    """From last − 1 down in steps of `stride`, rounded; int64."""
    return np.asarray(np.arange(last, 0, -stride).round().astype(np.int64) - 1)


def inside(timesteps: np.ndarray, steps: int, schedule: NoiseSchedule) -> np.ndarray:
    """These timesteps, if all lie in 0 … T−1.

    Raises SchedulerError otherwise: an offset can pass the end, and with trailing spacing rounding gives diffusers one
    timestep too many, −1, at some counts (61 of 1,000 is the first).
    """
    total = schedule.num_train_timesteps
    for edge in (timesteps[0], timesteps[-1]):
        if not 0 <= edge < total:
            found = f"{schedule['timestep_spacing']} spacing and steps_offset {schedule['steps_offset']}"
            raise SchedulerError(
                f"num_inference_steps {steps} with {found}: "
                f"expected timesteps in 0 to {total - 1}, found {edge:.0f}; choose another step count"
            )
    return timesteps
