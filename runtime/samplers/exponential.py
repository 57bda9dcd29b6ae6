"""The exponential integrator that DPM-Solver's variants share, multistep and singlestep."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from runtime.samplers.options import (
    FINAL_SIGMA,
    NOT_FLOW,
    NOT_THRESHOLDED,
    RESPACINGS,
    SIGMA_RANGE,
    Option,
    SchedulerError,
    absent,
    integer,
    number,
    one_of,
    training,
)
from runtime.samplers.prediction import clean, noise
from runtime.samplers.schedules import NoiseSchedule

ODE, ODE_NOISE, SDE, SDE_NOISE = "dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver"
_SOLVER_TYPES = one_of("midpoint", "heun", read_as=dict.fromkeys(("logrho", "bh1", "bh2"), "midpoint"))


def dpm_options(*algorithms: str) -> dict[str, Option]:
    """What multistep and singlestep both read."""
    return {
        **training(),
        **RESPACINGS,
        **SIGMA_RANGE,
        "solver_order": Option(2, integer(1, 3)),
        "algorithm_type": Option(ODE, one_of(*algorithms, read_as={"deis": ODE})),
        "solver_type": Option("midpoint", _SOLVER_TYPES),
        **FINAL_SIGMA,
        "lambda_min_clipped": Option(-math.inf, number(-math.inf, math.inf)),
        "variance_type": Option(None, absent),
        **NOT_THRESHOLDED,
        **NOT_FLOW,
    }


def converted(schedule: NoiseSchedule, sigma: float, x: np.ndarray, output: np.ndarray) -> np.ndarray:
    """Weights of what the solver keeps of a model output: x̂_0, or ε̂ where it integrates that."""
    alpha = 1 / np.sqrt(sigma**2 + 1)
    kept: Callable[..., np.ndarray] = noise if schedule["algorithm_type"] in (ODE_NOISE, SDE_NOISE) else clean
    return kept(schedule.prediction_type, alpha, alpha * sigma, x, output)


def check_final_sigma(schedule: NoiseSchedule) -> None:
    """Raise SchedulerError where noise predictions would be integrated to σ = 0, where e^h is infinite."""
    if schedule["algorithm_type"] in (ODE_NOISE, SDE_NOISE) and schedule["final_sigmas_type"] == "zero":
        raise SchedulerError.for_option("final_sigmas_type", f"sigma_min with algorithm_type {schedule['algorithm_type']}", "zero")


@dataclass(frozen=True)
class Integrator:
    """One step from σ_s to σ_t, h = log(σ_s/σ_t), by the weights of

        x' = sample·x + constant·D_0 + linear·D_1 + quadratic·D_2 + fresh·ξ

    D_k is the k-th divided difference of what the model said, over steps of length 1; `midpoint` is another weight of D_1.
    Lu et al. 2022 (a, DPM-Solver; b, DPM-Solver++, Appendix A; its SDE variants). With z the algorithm's own multiple of h:

        constant = −g·(e^z − 1)     linear = −g·φ_2(z)     quadratic = −g·φ_3(z)
    """

    sample: float
    constant: float
    linear: float
    quadratic: float
    fresh: float

    @property
    def midpoint(self) -> float:
        return self.constant / 2

    @classmethod
    def of(cls, algorithm: str, sigma_t: float, sigma_s: float) -> Integrator:
        alpha_t, alpha_s = 1 / math.sqrt(sigma_t**2 + 1), 1 / math.sqrt(sigma_s**2 + 1)
        h = math.log(sigma_s / sigma_t) if sigma_t else math.inf
        shrink = alpha_t * sigma_t / (alpha_s * sigma_s)
        if algorithm == ODE:
            return cls._weighing(shrink, alpha_t, -h)
        if algorithm == SDE:
            # diffusers' weight of D_2 has this term beside φ_3; Lu's expansion has none.
            fresh, surplus = alpha_t * sigma_t * math.sqrt(-math.expm1(-2 * h)), -alpha_t
            return cls._weighing(shrink * math.exp(-h), alpha_t, -2 * h, fresh, surplus)
        if algorithm == ODE_NOISE:
            return cls._weighing(alpha_t / alpha_s, alpha_t * sigma_t, h)
        return cls._weighing(alpha_t / alpha_s, 2 * alpha_t * sigma_t, h, alpha_t * sigma_t * math.sqrt(math.expm1(2 * h)))

    @classmethod
    def _weighing(cls, sample: float, gain: float, z: float, fresh: float = 0.0, surplus: float = 0.0) -> Integrator:
        return cls(sample, -gain * math.expm1(z), -gain * phi(2, z), -gain * phi(3, z) + surplus, fresh)


def phi(order: int, z: float) -> float:
    """φ_2 = (e^z − 1)/z − 1 and φ_3 = (φ_2 − z/2)/z; at −∞ their limits."""
    if math.isinf(z):
        return -1.0 if order == 2 else -0.5
    if abs(z) < 0.1:  # the quotients lose digits: their series, whose terms fall by a factor of 30 and more
        return sum(z**n / math.factorial(n + order - 1) for n in range(1, 12))
    second = math.expm1(z) / z - 1
    return second if order == 2 else second / z - 0.5
