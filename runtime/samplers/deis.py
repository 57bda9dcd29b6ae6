"""DEIS: a multistep solver on past noise predictions."""

from __future__ import annotations

import numpy as np

from runtime.samplers.lagrange import integrals
from runtime.samplers.options import (
    LOWER_ORDER_FINAL,
    NOT_FLOW,
    NOT_THRESHOLDED,
    RESPACINGS,
    SIGMA_RANGE,
    Option,
    integer,
    one_of,
    spacing,
    training,
)
from runtime.samplers.prediction import noise
from runtime.samplers.schedules import NoiseSchedule
from runtime.samplers.sigmas import levels_of_exponentials

DEIS_OPTIONS = {
    **training(),
    **spacing("linspace"),
    **RESPACINGS,
    **SIGMA_RANGE,
    "solver_order": Option(2, integer(1, 3)),
    "algorithm_type": Option("deis", one_of("deis", read_as={"dpmsolver": "deis", "dpmsolver++": "deis"})),
    "solver_type": Option("logrho", one_of("logrho", read_as=dict.fromkeys(("midpoint", "heun", "bh1", "bh2"), "logrho"))),
    **LOWER_ORDER_FINAL,
    **NOT_THRESHOLDED,
    **NOT_FLOW,
}


def deis(steps: int, schedule: NoiseSchedule) -> tuple[np.ndarray, np.ndarray]:
    """Zhang and Chen 2023, ρAB-DEIS in log ρ (diffusers DEISMultistepScheduler); ρ is σ, l_k Lagrange's basis over past log ρ:

        x_{i+1}/α_{i+1} = x_i/α_i + Σ_k ε̂_{i−k} · ∫ l_k(log ρ) dρ from ρ_i to ρ_{i+1}

    State: x and the last ε̂ (order − 1 of them), newest first.
    """
    levels = levels_of_exponentials(steps, schedule, last_repeats=True)
    alphas, log_rho, order = levels.alphas, np.log(levels.sigmas), schedule["solver_order"]
    rows = len(levels.timesteps)
    x, *past, output, _ = np.eye(order + 2)
    matrices = []
    for i in range(rows):
        eps = [noise(schedule.prediction_type, alphas[i], alphas[i] * levels.sigmas[i], x, output), *past]
        left = rows - i if schedule["lower_order_final"] and rows < 15 else order
        nodes = log_rho[i::-1][: min(order, left)]
        weights = integrals(nodes, log_rho[i], log_rho[i + 1], np.exp)
        following = alphas[i + 1] * (x / alphas[i] + weights @ eps[: len(nodes)])
        matrices.append([following, *eps[: order - 1], following])
    return levels.timesteps, np.array(matrices)
