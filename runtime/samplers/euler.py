"""Euler and Euler ancestral: solvers without memory, on dx/dσ."""

from __future__ import annotations

import numpy as np

from runtime.samplers.options import (
    EPSILON,
    FINAL_SIGMA,
    RESPACINGS,
    SIGMA_RANGE,
    V_PREDICTION,
    ZERO_SNR,
    Option,
    one_of,
    spacing,
    training,
)
from runtime.samplers.prediction import noise
from runtime.samplers.schedules import NoiseSchedule
from runtime.samplers.sigmas import levels_of_derivatives

EULER_OPTIONS = {
    **training(),
    **spacing("linspace"),
    **RESPACINGS,
    **SIGMA_RANGE,
    "interpolation_type": Option("linear", one_of("linear", "log_linear")),
    "timestep_type": Option("discrete", one_of("discrete", "continuous")),
    **ZERO_SNR,
    **FINAL_SIGMA,
}
EULER_ANCESTRAL_OPTIONS = {**training((EPSILON, V_PREDICTION)), **spacing("linspace"), **ZERO_SNR}


def slope(prediction_type: str, sigma: float, x: np.ndarray, output: np.ndarray) -> np.ndarray:
    """Weights of dx/dσ = (x − x̂_0)/σ = ε̂, for a sample x = x_0 + σ·ε whose model input is x/√(σ² + 1)."""
    alpha = 1 / np.sqrt(sigma**2 + 1)
    return noise(prediction_type, alpha, sigma * alpha, alpha * x, output)


def euler(steps: int, schedule: NoiseSchedule) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Karras et al. 2022, Algorithm 2 without its second order and churn (diffusers EulerDiscreteScheduler):

        x' = x + (σ' − σ)·dx/dσ

    State: x.
    """
    levels = levels_of_derivatives(steps, schedule)
    return _steps(schedule, levels.timesteps, levels.sigmas, levels.sigmas[1:], levels.init_noise_sigma(schedule))


def euler_ancestral(steps: int, schedule: NoiseSchedule) -> tuple[np.ndarray, np.ndarray, float, float]:
    """k-diffusion's ancestral Euler (diffusers EulerAncestralDiscreteScheduler): down to σ_d = σ'²/σ, then up by fresh noise.

        x' = x + (σ_d − σ)·dx/dσ + √(σ'² − σ_d²)·ξ

    State: x.
    """
    levels = levels_of_derivatives(steps, schedule)
    down = levels.sigmas[1:] ** 2 / levels.sigmas[:-1]
    return _steps(schedule, levels.timesteps, levels.sigmas, down, levels.init_noise_sigma(schedule))


def _steps(
    schedule: NoiseSchedule, timesteps: np.ndarray, sigmas: np.ndarray, ends: np.ndarray, init_noise_sigma: float
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Each step goes from `sigmas[i]` to `ends[i]`, and by noise up to `sigmas[i + 1]`."""
    scale = 1 / np.sqrt(sigmas**2 + 1)
    x, output, xi = np.eye(3)
    matrices = []
    for i, end in enumerate(ends):
        moved = x + (end - sigmas[i]) * slope(schedule.prediction_type, sigmas[i], x, output)
        moved = moved + np.sqrt(sigmas[i + 1] ** 2 - end**2) * xi
        matrices.append([moved, scale[i + 1] * moved])
    return timesteps, np.array(matrices), init_noise_sigma, float(scale[0])
