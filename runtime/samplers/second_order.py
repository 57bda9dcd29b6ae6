"""Heun, DPM2 and DPM2 ancestral: two model calls a step, on dx/dσ; the last step is Euler's."""

from __future__ import annotations

import numpy as np

from runtime.samplers.euler import slope
from runtime.samplers.options import EPSILON, RESPACINGS, SIGMA_RANGE, V_PREDICTION, clip_sample, spacing, training
from runtime.samplers.schedules import NoiseSchedule
from runtime.samplers.sigmas import levels_of_derivatives, timesteps_of, training_sigmas

_SPACING = {**spacing("linspace"), **RESPACINGS, **SIGMA_RANGE}
HEUN_OPTIONS = {**training(beta_start=0.00085, beta_end=0.012), **_SPACING, **clip_sample(False)}
DPM2_OPTIONS = {**training((EPSILON, V_PREDICTION), beta_start=0.00085, beta_end=0.012), **_SPACING}


def heun(steps: int, schedule: NoiseSchedule) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Karras et al. 2022, Algorithm 2 without churn (diffusers HeunDiscreteScheduler); d and d' are the slopes at σ and σ':

        x' = x + (σ' − σ)·d, then        x' = x + (σ' − σ)·(d + d')/2

    State: x, and between the two calls the step's first sample and slope.
    """
    levels = levels_of_derivatives(steps, schedule)
    sigmas, scale = levels.sigmas, levels.alphas
    x, start, first, output, _ = np.eye(5)
    none = np.zeros(5)
    matrices = []
    for i in range(steps):
        leap = sigmas[i + 1] - sigmas[i]
        here = slope(schedule.prediction_type, sigmas[i], x, output)
        matrices.append([x + leap * here, x, here, scale[i + 1] * (x + leap * here)])
        if i < steps - 1:
            there = slope(schedule.prediction_type, sigmas[i + 1], x, output)
            moved = start + leap * (first + there) / 2
            matrices.append([moved, none, none, scale[i + 1] * moved])
    timesteps = np.append(levels.timesteps[:1], np.repeat(levels.timesteps[1:], 2))
    return timesteps, np.array(matrices), levels.init_noise_sigma(schedule), float(scale[0])


def dpm2(steps: int, schedule: NoiseSchedule) -> tuple[np.ndarray, np.ndarray, float, float]:
    """k-diffusion's DPM-Solver-2 (Lu et al. 2022; diffusers KDPM2DiscreteScheduler); d_m is the slope at σ_m = √(σ·σ'):

        x_m = x + (σ_m − σ)·d, then        x' = x + (σ' − σ)·d_m

    State: x, and between the two calls the step's first sample.
    """
    return _midpoint(steps, schedule, ancestral=False)


def dpm2_ancestral(steps: int, schedule: NoiseSchedule) -> tuple[np.ndarray, np.ndarray, float, float]:
    """DPM2 down to σ_d = σ'²/σ, then up to σ' by fresh noise (diffusers KDPM2AncestralDiscreteScheduler)."""
    return _midpoint(steps, schedule, ancestral=True)


def _midpoint(steps: int, schedule: NoiseSchedule, ancestral: bool) -> tuple[np.ndarray, np.ndarray, float, float]:
    levels = levels_of_derivatives(steps, schedule, round_karras=True)
    sigmas, scale = levels.sigmas, levels.alphas
    ends = sigmas[1:] ** 2 / sigmas[:-1] if ancestral else sigmas[1:]
    middles = np.sqrt(sigmas[:-1] * ends)
    x, start, output, xi = np.eye(4)
    none = np.zeros(4)
    matrices = []
    for i in range(steps):
        here = slope(schedule.prediction_type, sigmas[i], x, output)
        halfway = x + (middles[i] - sigmas[i]) * here
        matrices.append([halfway, x, halfway / np.sqrt(middles[i] ** 2 + 1)])
        if i < steps - 1:
            there = slope(schedule.prediction_type, middles[i], x, output)
            moved = start + (ends[i] - sigmas[i]) * there + np.sqrt(sigmas[i + 1] ** 2 - ends[i] ** 2) * xi
            matrices.append([moved, none, scale[i + 1] * moved])
    between = timesteps_of(middles[:-1], training_sigmas(schedule))
    timesteps = np.append(levels.timesteps[:1], np.stack([between, levels.timesteps[1:]], axis=1))
    return timesteps, np.array(matrices), levels.init_noise_sigma(schedule), float(scale[0])
