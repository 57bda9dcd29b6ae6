"""PNDM: a multistep solver on past model outputs."""

from __future__ import annotations

from typing import Any

import numpy as np

from runtime.samplers.options import EPSILON, V_PREDICTION, Option, SchedulerError, spacing, switch, training
from runtime.samplers.schedules import NoiseSchedule
from runtime.samplers.timesteps import spaced


def _without_runge_kutta(name: str, value: Any) -> bool:
    if not value:
        raise SchedulerError.for_option(name, "True (PNDM without Runge–Kutta steps)", value)
    return True


PNDM_OPTIONS = {
    **training((EPSILON, V_PREDICTION)),
    **spacing("leading"),
    "skip_prk_steps": Option(False, _without_runge_kutta),
    "set_alpha_to_one": Option(False, switch),
}


def pndm(steps: int, schedule: NoiseSchedule) -> tuple[np.ndarray, np.ndarray]:
    """Liu et al. 2022 with linear multistep weights only (diffusers PNDMScheduler, skip_prk_steps).

    Eq. 9 (the step from ᾱ to ᾱ') and Eq. 10 (ε̂, here of rising order: Adams and Bashforth):

        x' = √(ᾱ'/ᾱ)·x + (ᾱ − ᾱ') / (ᾱ·√(1 − ᾱ') + √(ᾱ·(1 − ᾱ)·ᾱ')) · ε̂        ε̂ = Σ_k w_k·m_{i−k}

    State: x and the last three model outputs, newest first. Row 1 repeats row 0's step from x_0 with the mean of the two
    outputs, so the second timestep comes twice; its output serves no later row, and until then the last slot holds x_0.
    """
    timesteps, x_weight, output_weight = _transfer(steps, schedule)
    adams_bashforth = (
        np.array([1]),
        np.array([3, -1]) / 2,
        np.array([23, -16, 5]) / 12,
        np.array([55, -59, 37, -9]) / 24,
    )
    x, *past, output, _ = np.eye(6)  # as weights of [state; model output; ξ]
    none = np.zeros(6)
    matrices = []
    for row in range(len(timesteps)):
        outputs = [output, *past]
        start, kept = x, outputs[:3]
        if row == 0:
            mean, kept = output, [output, none, x]
        elif row == 1:
            start, mean, kept = past[2], (output + past[0]) / 2, [past[0], none, none]
        else:
            weights = adams_bashforth[min(row, 4) - 1]
            mean = weights @ outputs[: len(weights)]
        following = x_weight[row] * start + output_weight[row] * mean
        matrices.append([following, *kept, following])
    return timesteps, np.array(matrices)


def _transfer(steps: int, schedule: NoiseSchedule) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Timesteps [R], and Eq. 9's weights of x and of the mean model output."""
    ladder = spaced(steps, schedule)
    timesteps = np.concatenate([ladder[:2], ladder[1:]])
    stride = schedule.num_train_timesteps // steps
    start, end = timesteps.copy(), timesteps - stride
    start[1:2], end[1:2] = timesteps[1:2] + stride, timesteps[1:2]

    alpha = schedule.alphas_cumprod[start]
    alpha_prev = schedule.alphas_before(end)
    x_weight = np.sqrt(alpha_prev / alpha)
    root = np.sqrt(alpha * (1 - alpha) * alpha_prev)
    eps_weight = (alpha - alpha_prev) / (alpha * np.sqrt(1 - alpha_prev) + root)
    if schedule.prediction_type == EPSILON:
        return timesteps, x_weight, eps_weight
    # diffusers keeps raw outputs and converts their mean with this row's x and ᾱ: ε̂ = √ᾱ·v̂ + √(1 − ᾱ)·x
    return timesteps, x_weight + eps_weight * np.sqrt(1 - alpha), eps_weight * np.sqrt(alpha)
