"""DDIM: a solver without memory."""

from __future__ import annotations

import numpy as np

from runtime.samplers.schedules import NoiseSchedule, SchedulerError


def check_ddim(schedule: NoiseSchedule) -> None:
    """Raise SchedulerError for options that DDIM reads and that are not linear."""
    if schedule.clip_sample is None:
        raise SchedulerError(
            "scheduler option clip_sample: expected False, found no entry, which DDIM takes as True; "
            'write "clip_sample": false if the model was not trained with clipping'
        )
    if schedule.clip_sample:
        raise SchedulerError.for_option("clip_sample", False, True)
    schedule.require_off("thresholding", "rescale_betas_zero_snr")


def ddim(steps: int, schedule: NoiseSchedule) -> tuple[np.ndarray, np.ndarray]:
    """Song et al. 2021, Eq. 12 with η = 0 (diffusers DDIMScheduler); ᾱ' is where the step leads to:

        x' = √ᾱ'·x̂_0 + √(1 − ᾱ')·ε̂

    State: x. Both x̂_0 and ε̂ are linear in x and the model output. Each comes from the two directly: to go through ε̂ would
    divide by √ᾱ, which loses digits where ᾱ is tiny and the model predicts v or x_0.
    """
    timesteps = schedule.timesteps(steps, schedule.timestep_spacing or "leading")
    alpha = np.array(schedule.alphas_cumprod)[timesteps]
    alpha_prev = schedule.alphas_before(timesteps - schedule.num_train_timesteps // steps, one_by_default=True)
    root_alpha, root_beta = np.sqrt(alpha), np.sqrt(1 - alpha)
    none, one = np.zeros(steps), np.ones(steps)
    # Weights of x, model output and noise.
    if schedule.prediction_type == "epsilon":
        clean, eps = [1 / root_alpha, -root_beta / root_alpha, none], [none, one, none]
    elif schedule.prediction_type == "v_prediction":
        clean, eps = [root_alpha, -root_beta, none], [root_beta, root_alpha, none]
    else:
        clean, eps = [none, one, none], [1 / root_beta, -root_alpha / root_beta, none]
    following = np.sqrt(alpha_prev) * clean + np.sqrt(1 - alpha_prev) * eps
    return timesteps, np.stack([following, following]).transpose(2, 0, 1)
