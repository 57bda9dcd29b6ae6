"""Runs of the twin: the guarded loop of `runtime.loop` in PyTorch, which keeps the latents of every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from engines.errors import InputError
from engines.networks import LATENT_CHANNELS
from engines.noise import NormalStream
from engines.policy import CHECKS
from engines.printable import shown
from evaluation.twin import Rows, Twin
from export.wrappers import SamplerStep
from runtime.preparation import AUTO, CHECK_BEFORE_UNDER
from runtime.samplers.recurrence import Recurrence
from runtime.samplers.registry import recurrence
from runtime.samplers.schedules import SchedulerConfig


@dataclass(frozen=True)
class RunOptions:
    """How pictures are sampled: fields of `runtime.Request`.

    Raises:
        InputError: an unknown check, or a guidance scale of 1 or less.
    """

    num_inference_steps: int = 25
    guidance_scale: float = 7.5
    scheduler: str | None = None  # None for the model's own
    check: str | None = None  # None for the twin's

    def __post_init__(self) -> None:
        if self.check not in (None, *CHECKS):
            raise InputError(f"check: expected one of {', '.join(CHECKS)}, found {shown(self.check)}")
        if not self.guidance_scale > 1:
            raise InputError(f"guidance_scale: expected more than 1, found {shown(self.guidance_scale)}")

    def sampler(self, twin: Twin) -> Recurrence:
        """Raises SchedulerError for one that cannot be honoured."""
        config = SchedulerConfig.read(twin.scheduler)
        return recurrence(self.scheduler or config.class_name, self.num_inference_steps, config)

    def looks_before(self, twin: Twin) -> bool:
        """Whether the guard looks before the UNet of each step, else beside it."""
        check = self.check or twin.check
        return self.num_inference_steps < CHECK_BEFORE_UNDER if check == AUTO else check == "before"


class Trajectory(NamedTuple):
    """What a run of R rows leaves; the last two are the guard's, None without it.

    latents    float32 [R + 1, B, 4, H, W]: what each row starts from, and the final ones
    inputs     float32 [R, B, 4, H, W]: what the UNet read at each row
    timesteps  float32 [R]
    p_unsafe   float32 [R, K, B], NOT_CHECKED where an image was not checked
    withheld   bool [B]: the final check found the latents unsafe
    """

    latents: Tensor
    inputs: Tensor
    timesteps: Tensor
    p_unsafe: Tensor | None
    withheld: Tensor | None

    @property
    def final(self) -> Tensor:
        """float32 [B, 4, H, W]."""
        return self.latents[-1]

    def rows(self, count: int, image: int = 0) -> Rows:
        """`count` rows of one image, evenly spread from the first to the last; all where there are not so many."""
        total = len(self.timesteps)
        places = np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int))
        return Rows(self.latents[places, image], self.inputs[places, image], self.timesteps[places])


@torch.no_grad()
def sample(
    twin: Twin,
    embeds: Tensor,
    seeds: Sequence[int],
    options: RunOptions,
    negative: Tensor | None = None,
    guarded: bool = True,
) -> Trajectory:
    """One image for each prompt. `embeds` and `negative` (by default those of "") are embeddings float32 [B, 77, D]."""
    sampler, images = options.sampler(twin), len(embeds)
    streams = [NormalStream(seed) for seed in seeds]
    state = _first_state(twin, sampler, streams)
    original = torch.cat([twin.embeds([""]).expand_as(embeds) if negative is None else negative, embeds])
    guard = _GuardMemory(twin, original) if guarded else None
    before = options.looks_before(twin)
    matrices = torch.tensor(np.array(sampler.matrices), device=twin.device)
    timesteps = torch.tensor(np.array(sampler.timesteps), device=twin.device)
    step, scale = SamplerStep(), torch.full((images,), options.guidance_scale, device=twin.device)
    model_input, current = state[0] * sampler.input_scale, original
    latents, inputs = [state[0]], []
    for row, timestep in enumerate(timesteps):
        if guard is not None and before:
            current = guard.check(state[0], timestep)
        inputs.append(model_input)
        noise_pred = twin.unet(model_input, timestep.expand(images), current)
        if guard is not None and not before:
            current = guard.check(state[0], timestep)
        noise = _noise(twin, streams, drawn=bool(sampler.noisy[row]))
        state, model_input, _ = step(state, noise_pred, noise, matrices[row].expand(images, -1, -1), scale)
        latents.append(state[0])
    sampled = torch.stack(latents), torch.stack(inputs), timesteps
    if guard is None:
        return Trajectory(*sampled, None, None)
    return Trajectory(*sampled, torch.stack(guard.p_unsafe), guard.final_unsafe(state[0]))


class _GuardMemory:
    """What the guard remembers through one run."""

    def __init__(self, twin: Twin, original: Tensor) -> None:
        self.p_unsafe: list[Tensor] = []
        self._guard, self._original = twin.guard, original
        self._final_thresholds = original.new_tensor([[policy.threshold_at_end] for policy in twin.policies])
        self._inputs = twin.guard_inputs(len(original) // 2, branches=2)
        self._shifts = original.new_zeros(len(twin.policies), *original.shape)

    def check(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """The embeddings for the UNet from here on, [2·B, 77, D]."""
        given = latents, timestep.expand(len(latents)), self._original, self._shifts
        embeds, self._shifts, self._inputs["countdown"], p_unsafe, _ = self._guard(*given, **self._inputs)
        self.p_unsafe.append(p_unsafe)
        return embeds

    def final_unsafe(self, latents: Tensor) -> Tensor:
        """What the final check, at timestep 0, finds of each image, bool [B]."""
        countdown = self._inputs["countdown"]
        threshold = self._final_thresholds.expand(countdown.shape)
        inputs = {**self._inputs, "countdown": torch.zeros_like(countdown), "threshold": threshold}
        unsafe: Tensor = self._guard(latents, latents.new_zeros(len(latents)), self._original, self._shifts, **inputs)[4]
        return unsafe.any(dim=0)


def _first_state(twin: Twin, sampler: Recurrence, streams: Sequence[NormalStream]) -> Tensor:
    noise = _noise(twin, streams, drawn=True)
    state = noise.new_zeros(sampler.slots, *noise.shape)
    state[0] = noise * sampler.init_noise_sigma
    return state


def _noise(twin: Twin, streams: Sequence[NormalStream], drawn: bool) -> Tensor:
    """The next of each image's own noise, float32 [B, 4, H, W]; 0 where it is not `drawn`."""
    shape = LATENT_CHANNELS, *twin.latent_size
    noise = [stream.draw(shape) if drawn else np.zeros(shape, np.float32) for stream in streams]
    return torch.tensor(np.stack(noise), device=twin.device)
