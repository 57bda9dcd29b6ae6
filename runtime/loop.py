"""The guarded sampling loop: on the memory of one backend, whose engines make its numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from engines.backends.contract import Array, Backend, Engine
from engines.backends.program import Execution, Progress, Stage
from engines.manifest import Policy
from engines.networks import NETWORKS, NOT_CHECKED, NetworkSpec
from runtime.samplers.tables import SamplerTable


@dataclass(frozen=True, eq=False)
class Trace:
    """What the loop leaves on the host, R rows: one for each row of the sampler's table.

    `latents` float32 [B, 4, H, W]; `finite` bool [R, B], whether UNet and sampler step gave finite numbers; with a guard
    `p_unsafe` float32 [R, B], -1 where an image was not checked.
    """

    latents: np.ndarray
    finite: np.ndarray
    p_unsafe: np.ndarray | None


class Loop:
    """Buffers and bound calls for one batch size, guidance, latent size and sampler table; reused for every image of that shape.

    `engines` holds unet, sampler_step and, for a guarded loop, guard. What one step writes and the next one reads is
    there twice, so that no network ever reads what it writes.
    """

    def __init__(self, engines: Mapping[str, Engine], backend: Backend, table: SamplerTable, sizes: Mapping[str, int]) -> None:
        """`sizes`: numbers for B, CB, H, W and D."""
        self._backend, self._table = backend, table
        self._sizes = {**sizes, "HX": table.history_x, "HE": table.history_eps, "R": table.coefficients.shape[1]}
        self._guarded = "guard" in engines
        rows, images = table.rows, sizes["B"]
        self._timesteps, self._coefficients = self._from_host(table.timesteps), self._from_host(table.coefficients)
        self._finite = backend.zeros((rows, images), "bool", rows=True)
        self._p_unsafe = backend.zeros((rows, images), "float32", rows=True)
        unet, guard, step = NETWORKS["unet"], NETWORKS["guard"], NETWORKS["sampler_step"]
        self._shared = {
            name: self._buffer(spec, name)
            for spec, name in (
                (unet, "noise_pred"),
                (step, "noise"),
                (step, "guidance_scale"),
                (guard, "original_embeds"),
                (guard, "alpha_scale"),
                (guard, "threshold"),
                (guard, "replace_steps"),
            )
        }
        self._model_input = self._buffer(unet, "sample")
        self._pairs = {
            name: (self._buffer(spec, name), self._buffer(spec, name))
            for spec, name in (
                (step, "sample"),
                (step, "history_x"),
                (step, "history_eps"),
                (guard, "embeds"),
                (guard, "countdown"),
            )
        }
        self._program = backend.program([self._bind(engines, row) for row in range(rows)])

    @property
    def execution(self) -> Execution:
        """How the steps have run so far."""
        return self._program.execution

    def _buffer(self, spec: NetworkSpec, name: str) -> Array:
        tensor = next(tensor for tensor in spec.tensors if tensor.name == name)
        return self._backend.zeros(tensor.shape(self._sizes), tensor.dtype)

    def _from_host(self, values: np.ndarray) -> Array:
        array = self._backend.zeros(values.shape, "float32", rows=True)
        self._backend.write(array, values)
        return array

    def _bind(self, engines: Mapping[str, Engine], row: int) -> list[Stage]:
        """One step: UNet and guard, which read the same state and are independent of each other, then the sampler."""
        now = {name: pair[row % 2] for name, pair in self._pairs.items()}
        following = {f"next_{name}": pair[(row + 1) % 2] for name, pair in self._pairs.items()}
        embeds = now["embeds"] if self._guarded else self._pairs["embeds"][0]
        timestep = self._timesteps[row, ...]
        beside = [
            engines["unet"].bind(
                sample=self._model_input, timestep=timestep, encoder_hidden_states=embeds, noise_pred=self._shared["noise_pred"]
            )
        ]
        if self._guarded:
            state = {
                "embeds": embeds,
                "countdown": now["countdown"],
                "p_unsafe": self._p_unsafe[row, ...],
                **{name: following[name] for name in ("next_embeds", "next_countdown")},
            }
            guard = engines["guard"].bind(
                sample=now["sample"],
                timestep=timestep,
                **state,
                **{name: self._shared[name] for name in ("original_embeds", "alpha_scale", "threshold", "replace_steps")},
            )
            beside.append(_when_due(guard, **state) if self._backend.on_host else guard)
        sampler_step = engines["sampler_step"].bind(
            **{name: now[name] for name in ("sample", "history_x", "history_eps")},
            **{name: self._shared[name] for name in ("noise_pred", "noise", "guidance_scale")},
            coefficients=self._coefficients[row, ...],
            **{name: following[name] for name in ("next_sample", "next_history_x", "next_history_eps")},
            next_model_input=self._model_input,
            finite=self._finite[row, ...],
        )
        return [beside, [sampler_step]]

    def run(
        self, embeds: np.ndarray, noise: np.ndarray, guidance_scale: float, policy: Policy | None, progress: Progress | None = None
    ) -> Trace:
        """Sample from `noise` float32 [B, 4, H, W] under embeddings float32 [C·B, 77, D]."""
        self._start(embeds, noise, guidance_scale, policy)
        self._program.run(progress)
        read = self._backend.read
        return Trace(
            read(self._pairs["sample"][self._table.rows % 2]), read(self._finite), read(self._p_unsafe) if self._guarded else None
        )

    def _start(self, embeds: np.ndarray, noise: np.ndarray, guidance_scale: float, policy: Policy | None) -> None:
        """Set every buffer that a run reads before it writes it: nothing of an earlier image remains.

        What the steps must report starts as a failure, so that a step that did not run cannot pass for a safe one.
        """
        write = self._backend.write
        sample = noise * np.float32(self._table.init_noise_sigma)
        scaled = sample * np.float32(self._table.input_scale)
        write(self._pairs["sample"][0], sample)
        write(self._model_input, np.concatenate([scaled] * (len(embeds) // len(noise))))
        write(self._pairs["history_x"][0], 0)
        write(self._pairs["history_eps"][0], 0)
        write(self._shared["guidance_scale"], guidance_scale)
        write(self._pairs["embeds"][0], embeds)
        write(self._finite, False)
        if self._guarded:
            write(self._p_unsafe, np.nan)
            if policy is None:
                raise TypeError("a guarded loop needs a policy")
            write(self._shared["original_embeds"], embeds)
            write(self._pairs["countdown"][0], 0)
            for name in ("alpha_scale", "threshold", "replace_steps"):
                write(self._shared[name], getattr(policy, name))


def _when_due(
    guard: Callable[[], None],
    embeds: np.ndarray,
    countdown: np.ndarray,
    p_unsafe: np.ndarray,
    next_embeds: np.ndarray,
    next_countdown: np.ndarray,
) -> Callable[[], None]:
    """A guard's call that the host makes only if an image's countdown has run out; else its outputs are known beforehand.

    For a backend on the host. A device's countdowns could be read only by waiting for it.
    """

    def call() -> None:
        if countdown.min() > 0:
            np.copyto(next_embeds, embeds)
            np.subtract(countdown, 1, out=next_countdown)
            p_unsafe.fill(NOT_CHECKED)
        else:
            guard()

    return call
