"""Noise levels σ = √((1 − ᾱ)/ᾱ) of a run (Karras et al. 2022), and what the schedule's options make of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from runtime.samplers.options import V_PREDICTION, SchedulerError
from runtime.samplers.schedules import NoiseSchedule
from runtime.samplers.timesteps import inside, trailing

# Sabour et al. 2024 (Align Your Steps): the ten timesteps for Stable Diffusion 1.5, also diffusers' AysSchedules.
AYS_TIMESTEPS = (999, 850, 736, 645, 545, 455, 343, 233, 124, 24)
_AYS_NOISE = 14.6146  # the largest σ of the schedule that these timesteps are of
_SMALLEST_ALPHA = 2**-24  # stands for ᾱ_{T−1} = 0, so that σ stays finite; diffusers' value


@dataclass(frozen=True, eq=False)
class NoiseLevels:
    """float64: `timesteps` [N] and `sigmas` [N+1], which a run starts at and leads to."""

    timesteps: np.ndarray
    sigmas: np.ndarray

    @property
    def alphas(self) -> np.ndarray:
        """α = 1/√(σ² + 1), float64 [N+1]: by α the model's input is scaled, and x = α·x_0 + α·σ·ε has variance 1."""
        return np.asarray(1 / np.sqrt(self.sigmas**2 + 1))

    def init_noise_sigma(self, schedule: NoiseSchedule) -> float:
        """Of the samplers whose sample is x_0 + σ·ε."""
        peak = float(self.sigmas.max())
        return math.sqrt(peak**2 + 1) if schedule["timestep_spacing"] == "leading" else peak


def training_sigmas(schedule: NoiseSchedule) -> np.ndarray:
    """σ_t float32 [T]. diffusers keeps σ in float32: close timesteps have close σ, and the rounding shows in their differences."""
    alphas = schedule.alphas_cumprod.astype(np.float32)
    if schedule.options.get("rescale_betas_zero_snr"):
        alphas[-1] = _SMALLEST_ALPHA
    return np.asarray(np.sqrt((1 - alphas) / alphas))


def levels_of_derivatives(steps: int, schedule: NoiseSchedule, round_karras: bool = False) -> NoiseLevels:
    """Of the samplers on dx/dσ: Euler, Heun, LMS, DPM2. Timesteps are fractional where σ lies between two of training."""
    every, spacing = training_sigmas(schedule), schedule["timestep_spacing"]
    total = schedule.num_train_timesteps
    if spacing == "linspace":
        timesteps = np.linspace(0, total - 1, steps, dtype=np.float32)[::-1].astype(np.float64)
    elif spacing == "leading":
        timesteps = np.arange(steps)[::-1] * float(total // steps) + schedule["steps_offset"]
    else:
        timesteps = trailing(total, total / steps).astype(np.float64)
    sigmas = np.interp(timesteps, np.arange(total), every)
    if schedule.options.get("interpolation_type") == "log_linear":
        sigmas = np.exp(np.linspace(np.log(every[-1]), np.log(every[0]), steps + 1, dtype=np.float32))
    respaced = _respaced(steps, sigmas[0], sigmas[-1], schedule)
    if respaced is None:
        inside(timesteps, steps, schedule)
    else:
        sigmas, timesteps = respaced, timesteps_of(respaced, every)
        if round_karras and schedule["use_karras_sigmas"]:
            timesteps = timesteps.round()
    last = every[0] if schedule.options.get("final_sigmas_type") == "sigma_min" else 0.0
    sigmas = np.append(sigmas, last)[: steps + 1].astype(np.float32).astype(np.float64)
    if schedule.options.get("timestep_type") == "continuous" and schedule.prediction_type == V_PREDICTION:
        timesteps = 0.25 * np.log(sigmas[:-1])
    return NoiseLevels(timesteps, sigmas)


def levels_of_exponentials(steps: int, schedule: NoiseSchedule, last_repeats: bool = False) -> NoiseLevels:
    """Of the samplers on log σ: DPM-Solver, UniPC, DEIS. Timesteps are integers.

    Without `final_sigmas_type` (DEIS) the run ends at the smallest σ of training. `last_repeats`: a run of other spacing
    ends at its own last σ instead.
    """
    every = training_sigmas(schedule)
    respaced = _respaced(steps, every[-1], every[0], schedule)
    if respaced is None:
        timesteps = inside(_rounded_timesteps(steps, every, schedule), steps, schedule).astype(np.float64)
        sigmas = np.interp(timesteps, np.arange(len(every)), every)
    else:
        sigmas, timesteps = respaced, timesteps_of(respaced, every)
        timesteps = np.trunc(timesteps) if _are_cut(schedule) else timesteps.round()
    final = schedule.options.get("final_sigmas_type", "sigma_min")
    smallest = sigmas[-1] if last_repeats and respaced is not None and not schedule["use_ays_sigmas"] else every[0]
    sigmas = np.append(sigmas, 0.0 if final == "zero" else smallest).astype(np.float32)
    return NoiseLevels(timesteps, sigmas.astype(np.float64))


def timesteps_of(sigmas: np.ndarray, every: np.ndarray) -> np.ndarray:
    """Fractional timesteps at which training had these σ, interpolated in log σ and held to 0 … T−1; float64."""
    return np.asarray(np.interp(np.log(np.maximum(sigmas, 1e-10)), np.log(every).astype(np.float64), np.arange(len(every))))


def _are_cut(schedule: NoiseSchedule) -> bool:
    """Whether diffusers cuts fractional timesteps; of Karras' and Lu's it rounds them, but in one class not a cosine schedule's."""
    if schedule["use_karras_sigmas"] or schedule.options.get("use_lu_lambdas"):
        return "use_lu_lambdas" in schedule.options and schedule["beta_schedule"] == "squaredcos_cap_v2"
    return not schedule["use_ays_sigmas"]


def _rounded_timesteps(steps: int, every: np.ndarray, schedule: NoiseSchedule) -> np.ndarray:
    """Spaced as if for one step more, whose timestep is left out. Below lambda_min_clipped, noise is left out."""
    clip = schedule.options.get("lambda_min_clipped", -math.inf)
    last = len(every) - int(np.count_nonzero(-np.log(every.astype(np.float64)) < clip))
    spacing = schedule.options.get("timestep_spacing", "linspace")
    if spacing == "leading":
        return np.asarray(np.arange(1, steps + 1)[::-1] * (last // (steps + 1)) + schedule["steps_offset"])
    if spacing == "trailing":
        return trailing(last, len(every) / steps)
    return np.asarray(np.linspace(0, last - 1, steps + 1).round()[:0:-1].astype(np.int64))


def _respaced(steps: int, largest: float, smallest: float, schedule: NoiseSchedule) -> np.ndarray | None:
    """σ float64 [steps] from largest to smallest as an option asks; None where none does."""
    given_largest, given_smallest = (schedule.options.get(name) for name in ("sigma_max", "sigma_min"))
    first = float(largest) if given_largest is None else given_largest
    last = float(smallest) if given_smallest is None else given_smallest
    on = schedule.options.get
    if on("use_karras_sigmas"):  # Karras et al. 2022, Eq. 5 with ρ = 7
        ramp, ends = np.linspace(0, 1, steps), (first ** (1 / 7), last ** (1 / 7))
        return np.asarray((ends[0] + ramp * (ends[1] - ends[0])) ** 7)
    if on("use_lu_lambdas"):  # Lu et al. 2022: even in λ = −log σ
        return np.exp(np.linspace(np.log(np.float32(largest)), np.log(np.float32(smallest)), steps, dtype=np.float64))
    if on("use_exponential_sigmas"):
        return np.exp(np.linspace(math.log(first), math.log(last), steps))
    if on("use_beta_sigmas"):  # Lee et al. 2024 (Beta Sampling is All You Need)
        return last + _beta_quantiles(1 - np.linspace(0, 1, steps)) * (first - last)
    if on("use_ays_sigmas"):
        return _align_your_steps(steps, schedule)
    return None


def _align_your_steps(steps: int, schedule: NoiseSchedule) -> np.ndarray:
    """For other counts than ten, interpolated in log σ as the paper does."""
    every = training_sigmas(schedule)
    if len(every) != 1000 or not math.isclose(every[-1], _AYS_NOISE, rel_tol=1e-3):
        found = f"{len(every)} timesteps up to σ = {every[-1]:.4g}"
        raise SchedulerError(f"Align Your Steps: expected Stable Diffusion's 1000 timesteps up to σ = {_AYS_NOISE}, found {found}")
    knots = np.log(every[[*AYS_TIMESTEPS, 0]].astype(np.float64))
    return np.exp(np.interp(np.arange(steps) * 10 / steps, np.arange(11), knots))


def _beta_quantiles(shares: np.ndarray, shape: float = 0.6) -> np.ndarray:
    """Quantiles float64 of the Beta(shape, shape) distribution, by bisection."""
    low, high = np.zeros_like(shares), np.full_like(shares, 0.5)
    lower = np.minimum(shares, 1 - shares)  # the distribution is symmetric
    for _ in range(60):
        middle = (low + high) / 2
        below = _beta_share(middle, shape) < lower
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.where(shares <= 0.5, high, 1 - high)


def _beta_share(x: np.ndarray, shape: float) -> np.ndarray:
    """Share of the Beta(shape, shape) distribution below x ≤ 1/2: the integral's power series, whose terms halve."""
    terms, total = np.ones_like(x), np.zeros_like(x)
    for n in range(60):
        total += terms / (shape + n)
        terms = terms * x * (n + 1 - shape) / (n + 1)
    return np.asarray(x**shape * total * math.gamma(2 * shape) / math.gamma(shape) ** 2)
