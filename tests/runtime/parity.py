"""Whole runs of our recurrences and of diffusers' schedulers, on the same random linear model and the same noise."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import inspect
import sys
import warnings
from collections.abc import Iterator
from typing import Any
from unittest import mock

import diffusers
import numpy as np
import torch
from diffusers import PNDMScheduler
from diffusers.utils.torch_utils import randn_tensor

from engines.noise import NormalStream
from runtime.samplers import schedules
from runtime.samplers.options import ETA, SchedulerError
from runtime.samplers.recurrence import Recurrence, apply_row
from runtime.samplers.registry import SAMPLERS, recurrence
from runtime.samplers.schedules import SchedulerConfig

# scheduler/scheduler_config.json of Stable Diffusion 1.5 (1.4's has another _diffusers_version)
STABLE_DIFFUSION_1 = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}
IMAGE, SEEDS = (4, 2, 2), (3, 2**40 + 5)
FLOAT32 = torch.float32
SIZE = int(np.prod(IMAGE))
TOLERANCE = 1e-4  # relative to the largest value of a row, at least 1
KINDS = ("equal", "rounding", "diffusers fails", "refused by both", "refused by us")


@dataclasses.dataclass(frozen=True)
class Case:
    """One run. `options` go onto Stable Diffusion 1.5's config; `calls` onto diffusers' set_timesteps and our schedule type."""

    name: str
    steps: int
    options: tuple[tuple[str, Any], ...] = ()
    eta: float = 0.0

    @property
    def config(self) -> dict[str, Any]:
        return {**STABLE_DIFFUSION_1, **dict(self.options)}

    def ours(self) -> Recurrence:
        return recurrence(self.name, self.steps, SchedulerConfig.read(self.config), eta=self.eta)

    def scheduler(self, wide: bool = False) -> Any:
        """diffusers' scheduler, its steps set."""
        scheduler = copy.deepcopy(_scheduler(self.name, self.options))
        with warnings.catch_warnings(action="ignore"), in_float64(scheduler) if wide else contextlib.nullcontext():
            scheduler.set_timesteps(self.steps)
        return scheduler

    def step_options(self) -> dict[str, float]:
        return {"eta": self.eta} if ETA in SAMPLERS[self.name].options else {}


@functools.lru_cache(16)  # a DPM2 takes half a second to make
def _scheduler(name: str, options: tuple[tuple[str, Any], ...]) -> Any:
    """As a user swaps schedulers: load the model's own, then build the other from its config."""
    with warnings.catch_warnings(action="ignore"):
        own = PNDMScheduler.from_config({**STABLE_DIFFUSION_1, **dict(options)})
        return getattr(diffusers, SAMPLERS[name].class_name).from_config(own.config)


def model(row: int, dtype: type) -> np.ndarray:
    """What a linear model does at one call: a matrix [SIZE, SIZE] of norm about 1."""
    return (np.random.default_rng(row).standard_normal((SIZE, SIZE)) / (2 * np.sqrt(SIZE))).astype(dtype)


MODELS = [model(row, np.float64) for row in range(2 * 250 + 1)]


def predicted(row: int, model_input: np.ndarray) -> np.ndarray:
    """The model's output at a call, of its input's dtype."""
    matrix = (MODELS[row] if row < len(MODELS) else model(row, np.float64)).astype(model_input.dtype)
    with np.errstate(invalid="ignore"):  # where diffusers' own sample is not finite
        return (model_input.reshape(len(model_input), SIZE) @ matrix).reshape(model_input.shape)


@contextlib.contextmanager
def in_float64(scheduler: Any) -> Iterator[None]:
    """Lets a scheduler compute in float64, from the float32 ᾱ that it has, but draw its noise in float32."""
    for name, value in vars(scheduler).items():
        if isinstance(value, torch.Tensor) and value.dtype == FLOAT32:
            setattr(scheduler, name, value.double())
    module = sys.modules[type(scheduler).__module__]

    def drawn(shape: Any, generator: Any = None, device: Any = None, dtype: Any = None) -> torch.Tensor:
        return randn_tensor(shape, generator=generator, device=device, dtype=FLOAT32).double()

    with contextlib.ExitStack() as patches:
        for place, name, value in ((np, "float32", np.float64), (torch, "float32", torch.float64), (module, "randn_tensor", drawn)):
            if hasattr(place, name):
                patches.enter_context(mock.patch.object(place, name, value))
        yield


def theirs(case: Case, scheduler: Any, wide: bool = False) -> np.ndarray:
    """Samples [R, B, *IMAGE] of diffusers' scheduler, whose steps are set."""
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    first = torch.stack([torch.randn(IMAGE, generator=generator, dtype=FLOAT32) for generator in generators])
    sample = (first.double() if wide else first) * scheduler.init_noise_sigma
    takes = inspect.signature(scheduler.step).parameters
    options = {**case.step_options(), **({"generator": generators} if "generator" in takes else {})}
    samples = []
    with in_float64(scheduler) if wide else contextlib.nullcontext():
        for row, timestep in enumerate(scheduler.timesteps):
            scaled = scheduler.scale_model_input(sample, timestep)
            output = torch.from_numpy(predicted(row, scaled.numpy()))
            sample = scheduler.step(output, timestep, sample, **options).prev_sample
            samples.append(sample.numpy())
    return np.array(samples)


def mine(ours: Recurrence, dtype: type) -> np.ndarray:
    """Samples [R, B, *IMAGE] of our recurrence."""
    streams = [NormalStream(seed) for seed in SEEDS]
    state = np.zeros((ours.slots, len(SEEDS), *IMAGE), dtype)
    state[0] = np.stack([stream.draw(IMAGE) for stream in streams]) * dtype(ours.init_noise_sigma)
    model_input = state[0] * dtype(ours.input_scale)
    samples = []
    for row, (matrix, wants) in enumerate(zip(ours.matrices.astype(dtype), ours.noisy, strict=True)):
        noise = np.stack([stream.draw(IMAGE) for stream in streams]) if wants else np.zeros((len(SEEDS), *IMAGE))
        state, model_input = apply_row(matrix, state, predicted(row, model_input), noise.astype(dtype))
        samples.append(state[0])
    return np.array(samples)


def error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest error of any row, relative to that row's largest value (at least 1)."""
    axes = tuple(range(1, found.ndim))
    return float((np.abs(found - expected).max(axes) / np.maximum(1, np.abs(expected).max(axes))).max())


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a case came to, one of KINDS or "unequal"; the error where both ran, else the first words of what was raised."""

    kind: str
    error: float = 0.0
    reason: str = ""


def outcome(case: Case) -> Outcome:
    """Compare both in float32; where they differ, in float64 too: what then agrees differs by diffusers' rounding alone."""
    try:
        scheduler = case.scheduler()
        expected = theirs(case, scheduler)
        failure = "" if np.isfinite(expected).all() else "NaN or infinity"
    except (
        ValueError,
        IndexError,
        NotImplementedError,
        UnboundLocalError,
        RuntimeError,
        AssertionError,
        ZeroDivisionError,
    ) as raised:
        failure = f"{type(raised).__name__}: {str(raised)[:60]}"
    try:
        ours = case.ours()
    except SchedulerError as refusal:
        return Outcome("refused by both" if failure else "refused by us", reason=failure or str(refusal)[:120])
    if failure:
        return Outcome("diffusers fails", reason=failure)
    if ours.timesteps.shape != expected.shape[:1]:
        return Outcome("unequal", reason="rows")
    difference = error(mine(ours, np.float32), expected)
    if difference < TOLERANCE and _same_timesteps(ours, scheduler):
        return Outcome("equal", difference)
    # torch's float32 square root can miss the last bit, which a schedule of zero SNR magnifies: take diffusers' ᾱ as they are.
    with mock.patch.object(schedules, "_with_zero_snr", lambda _: scheduler.alphas_cumprod.numpy().astype(np.float64)):
        ours = case.ours()
    wider = case.scheduler(wide=True)
    wide = error(mine(ours, np.float64), theirs(case, wider, wide=True))
    agree = wide < TOLERANCE and (_same_timesteps(ours, scheduler) or _same_timesteps(ours, wider))
    return Outcome("rounding" if agree else "unequal", max(difference, wide))


def _same_timesteps(ours: Recurrence, scheduler: Any) -> bool:
    """Integers are the same; those between come from a float32 logarithm there."""
    theirs = scheduler.timesteps.numpy()
    return bool(np.abs(ours.timesteps - theirs).max() <= (0 if theirs.dtype == np.int64 else 0.01))
