"""LMS: a multistep solver on past derivatives."""

from __future__ import annotations

import numpy as np

from runtime.samplers.euler import slope
from runtime.samplers.lagrange import integrals
from runtime.samplers.options import RESPACINGS, SIGMA_RANGE, Option, absent, spacing, training
from runtime.samplers.schedules import NoiseSchedule
from runtime.samplers.sigmas import levels_of_derivatives

# diffusers reads the range of σ in some of this class's spacings only.
LMS_OPTIONS = {**training(), **spacing("linspace"), **RESPACINGS, **{name: Option(None, absent) for name in SIGMA_RANGE}}


def lms(steps: int, schedule: NoiseSchedule) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Linear multistep of order 4 in σ (Katherine Crowson's k-diffusion; diffusers LMSDiscreteScheduler):

        x_{i+1} = x_i + Σ_k d_{i−k} · ∫ l_k(σ) dσ from σ_i to σ_{i+1}        d = dx/dσ, l_k Lagrange's basis over past σ

    State: x and the last three derivatives, newest first.
    """
    order = 4
    levels = levels_of_derivatives(steps, schedule)
    sigmas, scale = levels.sigmas, levels.alphas
    x, *past, output, _ = np.eye(order + 2)  # as weights of [state; model output; ξ]
    matrices = []
    for i in range(steps):
        slopes = [slope(schedule.prediction_type, sigmas[i], x, output), *past]
        nodes = sigmas[i::-1][:order]
        following = x + integrals(nodes, sigmas[i], sigmas[i + 1]) @ slopes[: len(nodes)]
        matrices.append([following, *slopes[:-1], scale[i + 1] * following])
    return levels.timesteps, np.array(matrices), levels.init_noise_sigma(schedule), float(scale[0])
