"""DDIM: a solver without memory, with fresh noise for η > 0."""

from __future__ import annotations

import numpy as np

from runtime.samplers.options import ETA, NOT_THRESHOLDED, ZERO_SNR, Option, clip_sample, number, spacing, switch, training
from runtime.samplers.prediction import clean, noise
from runtime.samplers.schedules import NoiseSchedule
from runtime.samplers.timesteps import spaced

DDIM_OPTIONS = {
    **training(),
    **spacing("leading"),
    "set_alpha_to_one": Option(True, switch),
    **ZERO_SNR,
    **clip_sample(True),
    **NOT_THRESHOLDED,
    ETA: Option(0.0, number(0, 100)),
}


def ddim(steps: int, schedule: NoiseSchedule) -> tuple[np.ndarray, np.ndarray]:
    """Song et al. 2021, Eq. 12 and 16 (diffusers DDIMScheduler); ᾱ' is where the step leads to:

        x' = √ᾱ'·x̂_0 + √(1 − ᾱ' − s²)·ε̂ + s·ξ        s = η·√((1 − ᾱ')/(1 − ᾱ) · (1 − ᾱ/ᾱ'))

    State: x.
    """
    timesteps = spaced(steps, schedule)
    alpha = schedule.alphas_cumprod[timesteps]
    alpha_prev = schedule.alphas_before(timesteps - schedule.num_train_timesteps // steps)
    fresh = schedule[ETA] * np.sqrt((1 - alpha_prev) / (1 - alpha) * (1 - alpha / alpha_prev))
    x, output, xi = np.eye(3)
    signal, sigma = np.sqrt(alpha)[:, None], np.sqrt(1 - alpha)[:, None]
    x_0 = clean(schedule.prediction_type, signal, sigma, x, output)
    eps = noise(schedule.prediction_type, signal, sigma, x, output)
    following = np.sqrt(alpha_prev)[:, None] * x_0 + np.sqrt(1 - alpha_prev - fresh**2)[:, None] * eps + fresh[:, None] * xi
    return timesteps, np.stack([following, following], axis=1)
