"""DDPM: ancestral sampling, the process that the model was trained to reverse."""

from __future__ import annotations

import numpy as np

from runtime.samplers.options import NOT_THRESHOLDED, ZERO_SNR, Option, clip_sample, one_of, spacing, training
from runtime.samplers.prediction import clean
from runtime.samplers.schedules import NoiseSchedule
from runtime.samplers.timesteps import spaced

DDPM_OPTIONS = {
    **training(),
    **spacing("leading"),
    "variance_type": Option("fixed_small", one_of("fixed_small", "fixed_small_log", "fixed_large")),
    **ZERO_SNR,
    **clip_sample(True),
    **NOT_THRESHOLDED,
}
_SMALLEST_VARIANCE = 1e-20  # diffusers' bound, for its logarithm


def ddpm(steps: int, schedule: NoiseSchedule) -> tuple[np.ndarray, np.ndarray]:
    """Ho et al. 2020, Eq. 7 (diffusers DDPMScheduler); ᾱ' is of the next timestep, 1 at the end, and β = 1 − ᾱ/ᾱ':

        x' = √ᾱ'·β/(1 − ᾱ)·x̂_0 + √(1 − β)·(1 − ᾱ')/(1 − ᾱ)·x + s·ξ        s² = β·(1 − ᾱ')/(1 − ᾱ), or β (fixed_large)

    No noise at timestep 0. State: x.
    """
    timesteps = spaced(steps, schedule)
    alpha = schedule.alphas_cumprod[timesteps]
    alpha_prev = np.append(alpha[1:], 1.0)
    beta = 1 - alpha / alpha_prev
    x, output, xi = np.eye(3)
    signal, sigma = np.sqrt(alpha)[:, None], np.sqrt(1 - alpha)[:, None]
    x_0 = clean(schedule.prediction_type, signal, sigma, x, output)
    variance = np.maximum((1 - alpha_prev) / (1 - alpha) * beta, _SMALLEST_VARIANCE)
    if schedule["variance_type"] == "fixed_large":
        variance = beta
    fresh = np.where(timesteps > 0, np.sqrt(variance), 0)
    following = (
        (np.sqrt(alpha_prev) * beta / (1 - alpha))[:, None] * x_0
        + (np.sqrt(1 - beta) * (1 - alpha_prev) / (1 - alpha))[:, None] * x
        + fresh[:, None] * xi
    )
    return timesteps, np.stack([following, following], axis=1)
