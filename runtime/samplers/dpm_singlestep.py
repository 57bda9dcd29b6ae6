"""DPM-Solver singlestep: groups of steps that restart from the group's first sample; DPM++ SDE."""

from __future__ import annotations

import numpy as np

from runtime.samplers.exponential import ODE, ODE_NOISE, SDE, Integrator, check_final_sigma, converted, dpm_options
from runtime.samplers.options import Option, switch
from runtime.samplers.schedules import NoiseSchedule
from runtime.samplers.sigmas import levels_of_exponentials

DPM_SINGLESTEP_OPTIONS = {**dpm_options(ODE, ODE_NOISE, SDE), "lower_order_final": Option(False, switch)}


def dpm_singlestep(steps: int, schedule: NoiseSchedule) -> tuple[np.ndarray, np.ndarray]:
    """Lu et al. 2022, DPM-Solver-2 and -3, spread over steps of order 1, 2, 3, … (diffusers DPMSolverSinglestepScheduler).

    x' is `Integrator`'s from the group's start. State: x, the group's first sample, and what the model said at the last
    order − 1 steps, newest first.
    """
    check_final_sigma(schedule)
    levels = levels_of_exponentials(steps, schedule)
    sigmas = levels.sigmas
    x, start, *past, output, xi = np.eye(schedule["solver_order"] + 3)
    matrices = []
    for i, order in enumerate(_orders(steps, schedule)):
        kept = [converted(schedule, sigmas[i], x, output), *past]
        base = x if order == 1 else start
        step = Integrator.of(schedule["algorithm_type"], sigmas[i + 1], sigmas[i + 1 - order])
        following = step.sample * base + step.constant * kept[order - 1] + step.fresh * xi
        if order > 1:
            following = following + _differences(step, order, kept, sigmas[i + 1 - order : i + 2], schedule["solver_type"])
        matrices.append([following, base, *kept[: len(past)], following])
    return levels.timesteps, np.array(matrices)


def _orders(steps: int, schedule: NoiseSchedule) -> list[int]:
    """Of each step: 1, 2, … in groups; what does not fill a group is a shorter one. diffusers ends uneven runs so, always."""
    most = schedule["solver_order"]
    orders = [row % most + 1 for row in range(steps)]
    to_zero = schedule["final_sigmas_type"] == "zero"
    if most > 1 and steps % most == 0 and (to_zero or schedule["lower_order_final"]):
        orders[-1] = 1
    return [*orders[:-1], 1] if to_zero else orders


def _differences(step: Integrator, order: int, kept: list[np.ndarray], sigmas: np.ndarray, solver_type: str) -> np.ndarray:
    """What D_1 and D_2 add; `sigmas` [order + 1] are those from the group's start to the step's end."""
    start, *inner, end = -np.log(sigmas)
    shares = [(each - start) / (end - start) for each in inner]  # of the step, at which the model was asked
    leaps = [(each - kept[order - 1]) / share for each, share in zip(kept[order - 2 :: -1], shares, strict=True)]
    if order == 2:
        return np.asarray((step.midpoint if solver_type == "midpoint" else step.linear) * leaps[0])
    if solver_type == "midpoint":
        return np.asarray(step.linear * leaps[1])
    near, far = shares
    bend = (leaps[1] - leaps[0]) / (far - near)
    return np.asarray(step.linear * (leaps[0] - near * bend) + 2 * step.quadratic * bend)
