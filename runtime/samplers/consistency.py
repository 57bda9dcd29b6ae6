"""LCM and TCD: few steps of a model that was distilled to jump to the end of its path."""

from __future__ import annotations

import numpy as np

from runtime.samplers.options import (
    ETA,
    MOST_TRAINING_STEPS,
    NOT_THRESHOLDED,
    ZERO_SNR,
    Option,
    SchedulerError,
    clip_sample,
    integer,
    number,
    training,
)
from runtime.samplers.prediction import clean, noise
from runtime.samplers.schedules import NoiseSchedule

_DISTILLED = {
    **training(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
    "original_inference_steps": Option(50, integer(1, MOST_TRAINING_STEPS)),
    **ZERO_SNR,
    **clip_sample(False),
    **NOT_THRESHOLDED,
}
LCM_OPTIONS = {**_DISTILLED, "timestep_scaling": Option(10.0, number(0, 1e6))}
TCD_OPTIONS = {**_DISTILLED, ETA: Option(0.0, number(0, 1))}
_DATA_SIGMA = 0.5  # standard deviation of the data, in the boundary condition of consistency models


def lcm(steps: int, schedule: NoiseSchedule) -> tuple[np.ndarray, np.ndarray]:
    """Luo et al. 2023, Algorithm 3 (diffusers LCMScheduler); ᾱ' is of the next timestep:

        f = c_out·x̂_0 + c_skip·x        x' = √ᾱ'·f + √(1 − ᾱ')·ξ, at the end x' = f

    State: x.
    """
    timesteps = _distilled_timesteps(steps, schedule)
    alpha = schedule.alphas_cumprod[timesteps]
    scaled = timesteps * schedule["timestep_scaling"]
    skip = _DATA_SIGMA**2 / (scaled**2 + _DATA_SIGMA**2)
    out = scaled / np.sqrt(scaled**2 + _DATA_SIGMA**2)
    x, output, xi = np.eye(3)
    signal, sigma = np.sqrt(alpha)[:, None], np.sqrt(1 - alpha)[:, None]
    jump = out[:, None] * clean(schedule.prediction_type, signal, sigma, x, output) + skip[:, None] * x
    kept = np.append(alpha[1:], 1.0)[:, None]
    following = np.sqrt(kept) * jump + np.sqrt(1 - kept) * xi
    return timesteps, np.stack([following, following], axis=1)


def tcd(steps: int, schedule: NoiseSchedule) -> tuple[np.ndarray, np.ndarray]:
    """Zheng et al. 2024, Algorithm 4 (diffusers TCDScheduler), η its γ; t' the next timestep, 0 at the end, s = ⌊(1 − η)·t'⌋:

        y = √ᾱ_s·x̂_0 + √(1 − ᾱ_s)·ε̂        x' = √(ᾱ'/ᾱ_s)·y + √(1 − ᾱ'/ᾱ_s)·ξ, at the end x' = y

    State: x.
    """
    timesteps = _distilled_timesteps(steps, schedule)
    following_timesteps = np.append(timesteps[1:], 0)
    alpha, alpha_prev = schedule.alphas_cumprod[timesteps], schedule.alphas_cumprod[following_timesteps]
    middle = np.floor(np.float32(1 - schedule[ETA]) * following_timesteps.astype(np.float32)).astype(np.int64)
    alpha_middle = schedule.alphas_cumprod[middle]
    x, output, xi = np.eye(3)
    signal, sigma = np.sqrt(alpha)[:, None], np.sqrt(1 - alpha)[:, None]
    x_0 = clean(schedule.prediction_type, signal, sigma, x, output)
    eps = noise(schedule.prediction_type, signal, sigma, x, output)
    jump = np.sqrt(alpha_middle)[:, None] * x_0 + np.sqrt(1 - alpha_middle)[:, None] * eps
    kept = np.append((alpha_prev / alpha_middle)[:-1], 1.0)[:, None]
    if not schedule[ETA]:
        kept = np.ones_like(kept)
    following = np.sqrt(kept) * jump + np.sqrt(1 - kept) * xi
    return timesteps, np.stack([following, following], axis=1)


def _distilled_timesteps(steps: int, schedule: NoiseSchedule) -> np.ndarray:
    """Descending, int64 [steps]: spread over those that the distillation used."""
    total, original = schedule.num_train_timesteps, schedule["original_inference_steps"]
    if original > total:
        raise SchedulerError.for_option("original_inference_steps", f"at most {total} (num_train_timesteps)", original)
    if steps > original:
        raise SchedulerError(
            f"num_inference_steps: expected 1 to {original} (original_inference_steps), found {steps}; choose fewer steps"
        )
    used = np.arange(original, 0, -1) * (total // original) - 1
    return np.asarray(used[np.floor(np.linspace(0, original, steps, endpoint=False)).astype(np.int64)])
