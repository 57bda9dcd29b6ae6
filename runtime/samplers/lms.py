"""LMS: a multistep solver on past derivatives."""

from __future__ import annotations

import numpy as np

from runtime.samplers.schedules import NoiseSchedule


def check_lms(schedule: NoiseSchedule) -> None:
    """Raise SchedulerError for other spacings of σ."""
    schedule.require_off("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")


def lms(steps: int, schedule: NoiseSchedule) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Linear multistep of order 4 in σ = √((1 − ᾱ)/ᾱ) (Katherine Crowson's k-diffusion; diffusers LMSDiscreteScheduler):

        x_{i+1} = x_i + Σ_k d_{i−k} · ∫ l_k(σ) dσ from σ_i to σ_{i+1}        d = dx/dσ, l_k Lagrange's basis over past σ

    Karras et al. 2022 write x with variance 1 + σ²; the model sees x/√(σ² + 1). State: x and the last three
    derivatives, newest first.
    """
    order = 4
    timesteps, sigmas = _noise_levels(steps, schedule)
    scale = 1 / np.sqrt(sigmas**2 + 1)
    x, *past, output, _ = np.eye(order + 2)  # as weights of [state; model output; ξ]
    matrices = []
    for i in range(steps):
        if schedule.prediction_type == "epsilon":
            slope = output
        elif schedule.prediction_type == "v_prediction":
            slope = sigmas[i] * scale[i] ** 2 * x + scale[i] * output
        else:
            slope = (x - output) / sigmas[i]
        slopes = [slope, *past]
        nodes = sigmas[i::-1][:order]
        following = x + _lagrange_integrals(nodes, sigmas[i], sigmas[i + 1]) @ slopes[: len(nodes)]
        matrices.append([following, *slopes[:-1], scale[i + 1] * following])
    peak = float(sigmas.max())
    init_noise_sigma = (peak**2 + 1) ** 0.5 if schedule.timestep_spacing == "leading" else peak
    return timesteps, np.array(matrices), init_noise_sigma, float(scale[0])


def _noise_levels(steps: int, schedule: NoiseSchedule) -> tuple[np.ndarray, np.ndarray]:
    """Timesteps [R] and σ [R+1], which ends in 0. With linspace spacing timesteps are fractional and σ interpolated."""
    total, spacing = schedule.num_train_timesteps, schedule.timestep_spacing or "linspace"
    if spacing == "linspace":
        timesteps = np.linspace(0, total - 1, steps, dtype=np.float32)[::-1]
    else:
        timesteps = schedule.timesteps(steps, spacing)
    alpha = np.array(schedule.alphas_cumprod)
    # diffusers keeps σ in float32: close timesteps have close σ, and the rounding shows in their differences.
    all_sigmas = np.sqrt((1 - alpha) / alpha).astype(np.float32)
    sigmas = np.append(np.interp(timesteps, np.arange(total), all_sigmas), 0.0).astype(np.float32)
    return timesteps, sigmas.astype(np.float64)


def _lagrange_integrals(nodes: np.ndarray, start: float, end: float) -> np.ndarray:
    """∫ from start to end of the Lagrange basis polynomials over `nodes` [n ≤ 4]. Two Gauss points are exact to degree 3."""
    middle, half = (start + end) / 2, (end - start) / 2
    points = middle + half * np.array([-1, 1]) / np.sqrt(3)
    others = [np.delete(nodes, k) for k in range(len(nodes))]
    basis = [np.prod((points[:, None] - o) / (node - o), axis=1) for node, o in zip(nodes, others, strict=True)]
    return np.asarray(half * np.sum(basis, axis=1))
