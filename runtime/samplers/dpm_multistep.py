"""DPM-Solver multistep: DPM++ 2M and its SDE and third-order variants."""

from __future__ import annotations

import numpy as np

from runtime.samplers.exponential import (
    ODE,
    ODE_NOISE,
    SDE,
    SDE_NOISE,
    Integrator,
    check_final_sigma,
    converted,
    dpm_options,
)
from runtime.samplers.options import LOWER_ORDER_FINAL, ZERO_SNR, Option, SchedulerError, spacing, switch
from runtime.samplers.schedules import NoiseSchedule
from runtime.samplers.sigmas import levels_of_exponentials

DPM_MULTISTEP_OPTIONS = {
    **dpm_options(ODE, ODE_NOISE, SDE, SDE_NOISE),
    **spacing("linspace"),
    "use_lu_lambdas": Option(False, switch),
    **LOWER_ORDER_FINAL,
    "euler_at_final": Option(False, switch),
    **ZERO_SNR,
}


def dpm_multistep(steps: int, schedule: NoiseSchedule) -> tuple[np.ndarray, np.ndarray]:
    """Lu et al. 2022, DPM-Solver++ Algorithm 2, with variants (diffusers DPMSolverMultistepScheduler).

    x' is `Integrator`'s, of what the model said now and at the last order − 1 steps. State: x and these, newest first.
    """
    check_final_sigma(schedule)
    if schedule["algorithm_type"] == SDE_NOISE and schedule["solver_order"] == 3:
        raise SchedulerError.for_option("solver_order", "1 or 2 with algorithm_type sde-dpmsolver", 3)
    levels = levels_of_exponentials(steps, schedule)
    rows, sigmas = len(levels.timesteps), levels.sigmas
    x, *past, output, xi = np.eye(schedule["solver_order"] + 2)
    matrices = []
    for i in range(rows):
        kept = [converted(schedule, sigmas[i], x, output), *past]
        order = _order(i, rows, schedule)
        step = Integrator.of(schedule["algorithm_type"], sigmas[i + 1], sigmas[i])
        following = step.sample * x + step.constant * kept[0] + step.fresh * xi
        if order > 1:
            following = following + _differences(step, order, kept, sigmas[i + 1 :: -1][: order + 1], schedule["solver_type"])
        matrices.append([following, *kept[: len(past)], following])
    return levels.timesteps, np.array(matrices)


def _order(row: int, rows: int, schedule: NoiseSchedule) -> int:
    """Of one step: rising at the start, falling at the end of a short run, 1 in a last step that asks for it."""
    order = min(schedule["solver_order"], row + 1)
    if schedule["lower_order_final"] and rows < 15:
        order = min(order, rows - row)
    if row == rows - 1 and (schedule["euler_at_final"] or schedule["final_sigmas_type"] == "zero"):
        order = 1
    return int(order)


def _differences(step: Integrator, order: int, kept: list[np.ndarray], sigmas: np.ndarray, solver_type: str) -> np.ndarray:
    """What D_1 and D_2 add; `sigmas` [order + 1] are those of the step's end, its start and the ones before."""
    h, *earlier = -np.diff(-np.log(sigmas))
    first = (kept[0] - kept[1]) * h / earlier[0]
    if order == 2:
        return np.asarray((step.midpoint if solver_type == "midpoint" else step.linear) * first)
    second = (kept[1] - kept[2]) * h / earlier[1]
    bend = (first - second) / sum(earlier)
    return np.asarray(step.linear * (first + earlier[0] * bend) + step.quadratic * h * bend)
