"""What a model's `scheduler_config.json` says, and the noise schedule that one sampler reads from it.

Knows nothing of solvers: `runtime.samplers.registry` turns a schedule into a recurrence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime.samplers.options import NOT_IN_CONFIGS, RESPACINGS, Option, SchedulerError, read_options


@dataclass(frozen=True)
class SchedulerConfig:
    """A scheduler's class in diffusers and the options that its config gives; what it does not give is the sampler's default."""

    class_name: str
    given: Mapping[str, Any]

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> SchedulerConfig:
        """Of a `scheduler_config.json` already parsed, or of the `config` of a diffusers scheduler."""
        # A live scheduler lists here the keys that its class filled in: diffusers treats them as absent.
        filled_in = config.get("_use_default_values")
        absent = (*filled_in, *NOT_IN_CONFIGS) if isinstance(filled_in, list | tuple) else NOT_IN_CONFIGS
        return cls(str(config.get("_class_name", "")), {key: value for key, value in config.items() if key not in absent})

    def schedule(self, options: Mapping[str, Option], chosen: Mapping[str, Any] | None = None) -> NoiseSchedule:
        """The schedule of a sampler that reads `options`; `chosen` go before what the config gives.

        Raises SchedulerError for a value that the sampler cannot honour.
        """
        return NoiseSchedule.of(read_options(options, {**self.given, **(chosen or {})}))


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """Training noise, and the value of every option that one sampler reads.

    `alphas_cumprod` is ᾱ_t for t = 0 … T−1, float64 [T], each rounded to float32 as in diffusers.
    """

    options: Mapping[str, Any]
    alphas_cumprod: np.ndarray

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> NoiseSchedule:
        """Raises SchedulerError for options that do not go together."""
        if len(on := [name for name in RESPACINGS if options.get(name)]) > 1:
            raise SchedulerError(f"scheduler options {' and '.join(on)}: expected at most one of them True, found {len(on)}")
        alphas = _alphas_cumprod(_betas(options))
        return cls(options, _with_zero_snr(alphas) if options.get("rescale_betas_zero_snr") else alphas)

    def __getitem__(self, option: str) -> Any:
        return self.options[option]

    @property
    def num_train_timesteps(self) -> int:
        """T."""
        return len(self.alphas_cumprod)

    @property
    def prediction_type(self) -> str:
        """What the model predicts: epsilon, v_prediction or sample."""
        return str(self["prediction_type"])

    def alphas_before(self, timesteps: np.ndarray) -> np.ndarray:
        """ᾱ float64 at the timesteps that steps lead to; below 0 it is 1 with set_alpha_to_one, else ᾱ_0."""
        final = 1.0 if self["set_alpha_to_one"] else self.alphas_cumprod[0]
        return np.where(timesteps >= 0, self.alphas_cumprod[np.maximum(timesteps, 0)], final)


def _betas(options: Mapping[str, Any]) -> np.ndarray:
    """β_t as float32 [T], as diffusers computes them, from an explicit list or a named schedule."""
    steps, start, end = options["num_train_timesteps"], options["beta_start"], options["beta_end"]
    if (given := options["trained_betas"]) is not None:
        if len(given) != steps:
            raise SchedulerError.for_option("trained_betas", f"{steps} numbers (num_train_timesteps)", len(given))
        return np.array(given, np.float32)
    if options["beta_schedule"] == "linear":
        return _linspace(start, end, steps)
    if options["beta_schedule"] == "scaled_linear":
        return np.asarray(_linspace(start**0.5, end**0.5, steps) ** 2)
    return _cosine_betas(steps)


def _linspace(start: float, end: float, steps: int) -> np.ndarray:
    """As torch.linspace in float32: from both ends to the middle, by multiples of a float32 stride, each rounded once."""
    first, last = np.float32(start), np.float32(end)
    stride = np.float64((last - first) / np.float32(max(steps - 1, 1)))
    index = np.arange(steps)
    values = np.where(index < steps // 2, first + stride * index, last - stride * (steps - 1 - index))
    return values.astype(np.float32) if steps > 1 else np.array([first])


def _cosine_betas(steps: int, max_beta: float = 0.999) -> np.ndarray:
    """Nichol and Dhariwal 2021, Eq. 17: ᾱ(u) = cos²((u + 0.008) / 1.008 · π/2), β_t = 1 − ᾱ((t+1)/T) / ᾱ(t/T)."""
    alpha_bar = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * math.pi / 2) ** 2
    return np.asarray(np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], max_beta), np.float32)


def _alphas_cumprod(betas: np.ndarray) -> np.ndarray:
    """ᾱ_t = Π (1 − β) as float64 [T]. torch multiplies in float64 and rounds each product to float32; 1 − ᾱ_0 shows it."""
    alphas = _products(np.float32(1) - betas)
    if not (0 < alphas[-1] <= alphas[0] < 1 and np.all(np.diff(alphas) < 0)):  # fails for NaN, too
        raise SchedulerError(
            "scheduler betas: expected cumulative alphas that fall strictly between 1 and 0, "
            f"found {alphas[0]:.6g} to {alphas[-1]:.6g} from betas {betas.min():.6g} to {betas.max():.6g}"
        )
    return alphas


def _products(alphas: np.ndarray) -> np.ndarray:
    return np.cumprod(alphas, dtype=np.float64).astype(np.float32).astype(np.float64)


def _with_zero_snr(alphas_cumprod: np.ndarray) -> np.ndarray:
    """Lin et al. 2024, Algorithm 1, in float32 as in diffusers: √ᾱ shifted and scaled so that the last is 0 and the first stays."""
    roots = np.sqrt(alphas_cumprod.astype(np.float32))
    first, last = roots[0], roots[-1]
    shifted = (roots - last) * (first / (first - last))
    bars = shifted**2
    return _products(1 - (1 - np.append(bars[:1], bars[1:] / bars[:-1])))
