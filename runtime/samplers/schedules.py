"""The noise schedule a model was trained with, read from a diffusers `scheduler_config.json`.

Knows nothing of solvers: `runtime.samplers.registry` turns a schedule into a recurrence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from engines.errors import InputError

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
TIMESTEP_SPACINGS = ("leading", "trailing", "linspace")

# diffusers' scheduler classes agree on these defaults.
_DEFAULTS: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
    "steps_offset": 0,
}
# They disagree on these, so an absent key stays None and the chosen sampler's own default applies.
_SAMPLER_DEFAULTS = ("timestep_spacing", "set_alpha_to_one", "clip_sample", "skip_prk_steps")
# They change the samples of the classes that read them, and have no place in a linear recurrence.
_MUST_BE_OFF = (
    "thresholding",
    "rescale_betas_zero_snr",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
)
MOST_TRAINING_STEPS = 100_000


class SchedulerError(InputError):
    """A scheduler option, sampler name or step count that cannot be honoured; the text says which, expected and found."""

    @classmethod
    def for_option(cls, option: str, expected: object, value: object) -> SchedulerError:
        return cls(f"scheduler option {option}: expected {expected}, found {value!r}")


@dataclass(frozen=True)
class NoiseSchedule:
    """Training noise and the options that every sampler needs. Hashable, so recurrences can be cached by it.

    `alphas_cumprod` is ᾱ_t for t = 0 … T−1, each rounded to float32 as in diffusers.
    None in an option means that the config does not say, and the sampler's own default applies.
    `switched_on` are options that the samplers reading them must refuse (see `require_off`).
    """

    alphas_cumprod: tuple[float, ...]
    prediction_type: str = "epsilon"
    steps_offset: int = 0
    timestep_spacing: str | None = None
    set_alpha_to_one: bool | None = None
    clip_sample: bool | None = None
    skip_prk_steps: bool | None = None
    class_name: str = ""
    switched_on: tuple[str, ...] = ()

    @property
    def num_train_timesteps(self) -> int:
        return len(self.alphas_cumprod)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> NoiseSchedule:
        """Read a `scheduler_config.json` already parsed, or the `config` of a diffusers scheduler.

        Options that no sampler of ours reads are ignored, as diffusers does when it makes one of ours from another's config.

        Raises SchedulerError for a value of an option that every sampler reads and that cannot be honoured.
        """
        # A live scheduler lists here the keys that its class filled in: diffusers treats them as absent.
        filled_in = config.get("_use_default_values")
        absent = filled_in if isinstance(filled_in, (list, tuple)) else ()
        given = {key: value for key, value in config.items() if key not in absent}
        switched_on = tuple(option for option in _MUST_BE_OFF if given.get(option))

        options = {key: given.get(key, default) for key, default in _DEFAULTS.items()}
        prediction_type, steps_offset = options["prediction_type"], options["steps_offset"]
        spacing = given.get("timestep_spacing")
        _require_member("prediction_type", prediction_type, PREDICTION_TYPES)
        if spacing is not None:
            _require_member("timestep_spacing", spacing, TIMESTEP_SPACINGS)
        if not _is_integer(steps_offset) or steps_offset < 0:
            raise SchedulerError.for_option("steps_offset", "an integer of at least 0", steps_offset)

        flags = {key: bool(given[key]) for key in _SAMPLER_DEFAULTS[1:] if key in given}
        alphas_cumprod = tuple(_alphas_cumprod(_betas(options)).tolist())
        class_name = str(given.get("_class_name", ""))
        return cls(alphas_cumprod, prediction_type, steps_offset, spacing, class_name=class_name, switched_on=switched_on, **flags)

    def require_off(self, *options: str) -> None:
        """Raise SchedulerError for the first of these options that is on."""
        for option in options:
            if option in self.switched_on:
                raise SchedulerError.for_option(option, False, True)

    def timesteps(self, steps: int, spacing: str) -> np.ndarray:
        """Descending timesteps int64 [steps] (Lin et al. 2024, Table 2). Only leading spacing has the offset.

        Raises SchedulerError for a timestep outside 0 … T−1: an offset can pass the end, and with trailing spacing
        rounding gives diffusers one timestep too many, −1, at some counts (61 of 1,000 is the first).
        """
        total = self.num_train_timesteps
        if spacing == "leading":
            timesteps = np.arange(steps)[::-1] * (total // steps) + self.steps_offset
        elif spacing == "trailing":
            timesteps = np.round(np.arange(total, 0, -total / steps)).astype(np.int64) - 1
        else:
            timesteps = np.linspace(0, total - 1, steps).round()[::-1].astype(np.int64)
        for edge in (timesteps[0], timesteps[-1]):
            if not 0 <= edge < total:
                raise SchedulerError(
                    f"num_inference_steps {steps} with {spacing} spacing and steps_offset {self.steps_offset}: "
                    f"expected timesteps in 0 to {total - 1}, found {edge}; choose another step count"
                )
        return timesteps

    def alphas_before(self, timesteps: np.ndarray, one_by_default: bool) -> np.ndarray:
        """ᾱ float64 at the timesteps that steps lead to; below 0 it is 1 with set_alpha_to_one, else ᾱ_0."""
        alphas = np.array(self.alphas_cumprod)
        to_one = one_by_default if self.set_alpha_to_one is None else self.set_alpha_to_one
        return np.where(timesteps >= 0, alphas[np.maximum(timesteps, 0)], 1.0 if to_one else alphas[0])


def _require_member(option: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise SchedulerError.for_option(option, "one of " + ", ".join(allowed), value)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_fraction(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def _betas(options: Mapping[str, Any]) -> np.ndarray:
    """β_t as float32 [T], as diffusers computes them, from an explicit list or a named schedule."""
    steps, start, end = options["num_train_timesteps"], options["beta_start"], options["beta_end"]
    if not _is_integer(steps) or not 1 <= steps <= MOST_TRAINING_STEPS:
        raise SchedulerError.for_option("num_train_timesteps", f"an integer of 1 to {MOST_TRAINING_STEPS}", steps)
    for option in ("beta_start", "beta_end"):
        if not _is_fraction(options[option]):
            raise SchedulerError.for_option(option, "a number of 0 to 1", options[option])
    if options["trained_betas"] is not None:
        try:
            betas = np.asarray(options["trained_betas"], np.float32)
        except (ValueError, TypeError, OverflowError):
            raise SchedulerError.for_option("trained_betas", "a list of numbers", type(options["trained_betas"]).__name__) from None
        if betas.shape != (steps,):
            raise SchedulerError.for_option("trained_betas", f"{steps} numbers (num_train_timesteps)", betas.shape)
    elif options["beta_schedule"] == "linear":
        betas = np.linspace(start, end, steps).astype(np.float32)
    elif options["beta_schedule"] == "scaled_linear":
        betas = np.linspace(start**0.5, end**0.5, steps).astype(np.float32) ** 2
    elif options["beta_schedule"] == "squaredcos_cap_v2":
        betas = _cosine_betas(steps)
    else:
        allowed = "one of linear, scaled_linear, squaredcos_cap_v2"
        raise SchedulerError.for_option("beta_schedule", allowed, options["beta_schedule"])
    return betas


def _cosine_betas(steps: int, max_beta: float = 0.999) -> np.ndarray:
    """Nichol and Dhariwal 2021, Eq. 17: ᾱ(u) = cos²((u + 0.008) / 1.008 · π/2), β_t = 1 − ᾱ((t+1)/T) / ᾱ(t/T)."""
    alpha_bar = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * math.pi / 2) ** 2
    return np.asarray(np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], max_beta), np.float32)


def _alphas_cumprod(betas: np.ndarray) -> np.ndarray:
    """ᾱ_t = Π (1 − β) as float64 [T]. torch multiplies in float64 and rounds each product to float32; 1 − ᾱ_0 shows it."""
    alphas = np.cumprod(np.float32(1) - betas, dtype=np.float64).astype(np.float32).astype(np.float64)
    if not (0 < alphas[-1] <= alphas[0] < 1 and np.all(np.diff(alphas) < 0)):  # fails for NaN, too
        raise SchedulerError(
            "scheduler betas: expected cumulative alphas that fall strictly between 1 and 0, "
            f"found {alphas[0]:.6g} to {alphas[-1]:.6g} from betas {betas.min():.6g} to {betas.max():.6g}"
        )
    return alphas
