"""The guarded sampling loop. Its arrays are a backend's; the engines do all arithmetic."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from engines.backends.contract import Array, Backend, Engine
from engines.backends.program import Execution, Program, Progress, Stage, Step
from engines.networks import GUARD, GUIDED_UNET, NOT_CHECKED, SAMPLER_STEP, UNET, NetworkSpec
from runtime.start import FORCED, GuardNumbers, LoopShape, Start

NUMBERS = tuple(field.name for field in dataclasses.fields(GuardNumbers) if field.name != "final_threshold")


@dataclass(frozen=True, eq=False)
class Trace:
    """What the loop leaves on the host, R rows.

    `latents` float32 [B, 4, H, W]; `finite` bool [R, B], whether UNet and sampler step gave finite numbers; with a guard
    `p_unsafe` float32 [R, K, B], NOT_CHECKED where an image was not checked, and `unsafe` bool [R, K, B]; with a final check
    `final_p_unsafe` float32 [K, B] and `final_unsafe` bool [K, B] of the final latents.
    """

    latents: np.ndarray
    finite: np.ndarray
    p_unsafe: np.ndarray | None
    unsafe: np.ndarray | None
    final_p_unsafe: np.ndarray | None
    final_unsafe: np.ndarray | None


class Loop:
    """Buffers and bound calls for one shape; reused for every run of that shape.

    `engines` has unet, sampler_step and, for a guarded loop, guard. What one step writes and the next one reads has
    two buffers, so that no network reads what it writes. `steps` are the bound calls that `program` runs.
    """

    def __init__(self, engines: Mapping[str, Engine], backend: Backend, shape: LoopShape) -> None:
        self.shape, self._backend, self._sizes = shape, backend, shape.sizes()
        rows, images, concepts = shape.rows, shape.images, shape.concepts
        self._finite = backend.zeros((rows, images), "bool", rows=True)
        self._p_unsafe = backend.zeros((rows, concepts, images), "float32", rows=True)
        self._unsafe = backend.zeros((rows, concepts, images), "bool", rows=True)
        self._by_row = {
            name: self._buffer(spec, name, rows)
            for spec, name in ((GUARD, "timestep"), (SAMPLER_STEP, "matrix"), *([(SAMPLER_STEP, "noise")] if shape.noisy else []))
        }
        if shape.guarded:
            self._by_row["threshold"] = self._buffer(GUARD, "threshold", rows)
        shared = [(UNET, "noise_pred"), (SAMPLER_STEP, "guidance_scale"), (GUARD, "original_embeds")]
        shared += [(GUARD, name) for name in (*NUMBERS, "delayed")] + ([] if shape.noisy else [(SAMPLER_STEP, "noise")])
        self._shared = {name: self._buffer(spec, name) for spec, name in shared}
        self._model_input = self._buffer(UNET, "sample")
        self._guidance = {"timestep_cond": self._buffer(GUIDED_UNET, "timestep_cond")} if shape.time_cond_proj_dim else {}
        self._embeds = (self._buffer(GUARD, "original_embeds"), self._buffer(GUARD, "original_embeds"))
        self._pairs = {
            name: (self._buffer(spec, name), self._buffer(spec, name))
            for spec, name in ((SAMPLER_STEP, "state"), (GUARD, "shifts"), (GUARD, "countdown"))
        }
        self._final = {tensor.name: self._buffer(GUARD, tensor.name) for tensor in GUARD.outputs} if shape.final_check else {}
        self._last_timestep = self._buffer(GUARD, "timestep")  # of the final check: zero
        self.steps: list[Step] = [self._bind(engines, row) for row in range(rows)]
        self.program: Program = backend.program(self.steps)

    @property
    def execution(self) -> Execution:
        """How the steps have run so far."""
        return self.program.execution

    def run(self, start: Start, progress: Progress | None = None) -> Trace:
        """Sample every image to its end."""
        self.start(start)
        self.program.run(progress)
        return self.trace()

    def start(self, start: Start) -> None:
        """Set every buffer that a run reads before it writes it: nothing of an earlier image remains.

        What the steps must report starts as a failure, so that a step that did not run cannot pass for a safe one.
        """
        write, steps = self._backend.write, start.steps
        sample = start.noise * steps.init_noise_sigma.reshape(-1, 1, 1, 1)
        state = np.zeros((steps.slots, *sample.shape), np.float32)
        state[0] = sample
        write(self._pairs["state"][0], state)
        write(self._model_input, sample * steps.input_scale.reshape(-1, 1, 1, 1))
        write(self._by_row["timestep"], steps.timesteps)
        write(self._by_row["matrix"], steps.matrices)
        if start.step_noise is not None:
            write(self._by_row["noise"], start.step_noise)
        write(self._shared["guidance_scale"], start.guidance_scale)
        for name, buffer in self._guidance.items():
            write(buffer, getattr(start, name))
        write(self._embeds[0], start.embeds)
        write(self._finite, False)
        if self.shape.guarded:
            self._start_guard(start)

    def _start_guard(self, start: Start) -> None:
        write = self._backend.write
        if start.numbers is None:
            raise TypeError("a guarded loop needs the guard's numbers")
        for p_unsafe, unsafe in ((self._p_unsafe, self._unsafe), (self._final.get("p_unsafe"), self._final.get("unsafe"))):
            if p_unsafe is not None:
                write(p_unsafe, np.nan)
                write(unsafe, True)
        write(self._shared["original_embeds"], start.embeds)
        write(self._pairs["shifts"][0], 0)
        write(self._pairs["countdown"][0], start.numbers.countdown)
        for name in NUMBERS:
            write(self._shared[name], getattr(start.numbers, name))
        write(self._shared["threshold"], start.numbers.final_threshold)  # the final check's; the steps have one for each row
        write(self._shared["delayed"], start.delayed)
        # A finished image's shift stays what it was after its last row: the final check must see that one.
        running = np.arange(self.shape.rows)[:, None, None] < start.steps.rows
        write(self._by_row["threshold"], np.where(running, start.numbers.threshold, FORCED["safe"]))

    def trace(self) -> Trace:
        """The result of the last run, once its steps have ended."""
        read, guarded, checked = self._backend.read, self.shape.guarded, self.shape.final_check
        return Trace(
            latents=read(self._pairs["state"][self.shape.rows % 2])[0],
            finite=read(self._finite),
            p_unsafe=read(self._p_unsafe) if guarded else None,
            unsafe=read(self._unsafe) if guarded else None,
            final_p_unsafe=read(self._final["p_unsafe"]) if checked else None,
            final_unsafe=read(self._final["unsafe"]) if checked else None,
        )

    def _buffer(self, spec: NetworkSpec, name: str, rows: int | None = None) -> Array:
        """An array for a tensor of a network, or one for each row of the samplers."""
        tensor = next(tensor for tensor in spec.tensors if tensor.name == name)
        shape = tensor.shape(self._sizes)
        if rows is None:
            return self._backend.zeros(shape, tensor.dtype)
        return self._backend.zeros((rows, *shape), tensor.dtype, rows=True)

    def _bind(self, engines: Mapping[str, Engine], row: int) -> list[Stage]:
        """One step: UNet and guard, side by side or the guard first, then the sampler; after the last step the final check."""
        now, following = row % 2, (row + 1) % 2
        guarded, before = self.shape.guarded, self.shape.before
        seen = (following if before else now) if guarded else 0  # the embeddings that the UNet sees
        by_row = {name: array[row, ...] for name, array in self._by_row.items()}
        unet = engines["unet"].bind(
            sample=self._model_input,
            timestep=by_row["timestep"],
            encoder_hidden_states=self._embeds[seen],
            **self._guidance,
            noise_pred=self._shared["noise_pred"],
        )
        stages: list[Stage] = [[unet]]
        if guarded:
            guard = self._bind_guard(engines["guard"], row)
            stages = [[guard], [unet]] if before else [[unet, guard]]
        sampler_step = engines["sampler_step"].bind(
            state=self._pairs["state"][now],
            noise_pred=self._shared["noise_pred"],
            noise=by_row["noise"] if self.shape.noisy else self._shared["noise"],
            matrix=by_row["matrix"],
            guidance_scale=self._shared["guidance_scale"],
            next_state=self._pairs["state"][following],
            next_model_input=self._model_input,
            finite=self._finite[row, ...],
        )
        last = self.shape.final_check and row == self.shape.rows - 1
        return [*stages, [sampler_step], *([[self._bind_final_check(engines["guard"])]] if last else [])]

    def _bind_guard(self, engine: Engine, row: int) -> Callable[[], None]:
        now, following = row % 2, (row + 1) % 2
        results = {
            "next_embeds": self._embeds[following],
            "next_shifts": self._pairs["shifts"][following],
            "next_countdown": self._pairs["countdown"][following],
            "p_unsafe": self._p_unsafe[row, ...],
            "unsafe": self._unsafe[row, ...],
        }
        state = {name: self._pairs[name][now] for name in ("shifts", "countdown")}
        inputs = self._guard_inputs() | {"threshold": self._by_row["threshold"][row, ...]} | state
        call = engine.bind(sample=self._sample(now), timestep=self._by_row["timestep"][row, ...], **inputs, **results)
        original = self._shared["original_embeds"]
        return _when_due(call, original_embeds=original, **state, **results) if self._backend.on_host else call

    def _bind_final_check(self, engine: Engine) -> Callable[[], None]:
        """The guard on the final latents under the last embeddings, at timestep 0; nothing acts on its shift."""
        last = self.shape.rows % 2
        inputs = self._guard_inputs() | {"timestep": self._last_timestep, "shifts": self._pairs["shifts"][last]}
        return engine.bind(sample=self._sample(last), **inputs, **self._final)

    def _guard_inputs(self) -> dict[str, Array]:
        """What every call of the guard reads; the countdown is the first row's."""
        return {name: self._shared[name] for name in ("original_embeds", *NUMBERS, "delayed")}

    def _sample(self, place: int) -> Array:
        """Slot 0 of a state: the samplers' own sample."""
        return self._pairs["state"][place][0, ...]


def _when_due(
    guard: Callable[[], None],
    original_embeds: np.ndarray,
    shifts: np.ndarray,
    countdown: np.ndarray,
    next_embeds: np.ndarray,
    next_shifts: np.ndarray,
    next_countdown: np.ndarray,
    p_unsafe: np.ndarray,
    unsafe: np.ndarray,
) -> Callable[[], None]:
    """A guard's call that the host makes only if a countdown has run out; else its outputs are known beforehand.

    For a backend on the host. A device's countdowns could be read only by waiting for it.
    """

    def call() -> None:
        if countdown.min() > 0:
            np.add(original_embeds, shifts.sum(axis=0), out=next_embeds)
            np.copyto(next_shifts, shifts)
            np.subtract(countdown, 1, out=next_countdown)
            p_unsafe.fill(NOT_CHECKED)
            unsafe.fill(False)
        else:
            guard()

    return call
