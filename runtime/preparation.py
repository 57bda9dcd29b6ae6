"""From a checked request to where the loop starts: samplers, noise and each guard's policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from engines.errors import InputError
from engines.manifest import Manifest
from engines.networks import LATENT_CHANNELS
from engines.noise import NormalStream
from engines.policy import OFF, Off, Policy
from engines.printable import shown
from engines.records import GuardRecord
from runtime.guidance import guidance_embedding
from runtime.judge import Terms
from runtime.request import Request
from runtime.samplers.recurrence import Batch, Recurrence
from runtime.samplers.registry import recurrence
from runtime.samplers.schedules import SchedulerConfig
from runtime.start import GuardNumbers, LoopShape, Start

AUTO = "auto"  # a manifest's or a call's check that follows from the step count
CHECK_BEFORE_UNDER = 20  # steps; docs/guarding.md has the figures


@dataclass(frozen=True)
class Preparation:
    """One request, resolved for the engines of a manifest.

    size      picture height and width in pixels
    seeds     one for each image
    samplers  one for each image
    guards    each concept's guard with its policy, or OFF, for each image; no guards for an unguarded call

    Raises:
        InputError: an option cannot be honoured by these engines.
    """

    request: Request
    manifest: Manifest
    size: tuple[int, int]
    seeds: list[int]
    samplers: list[Recurrence]
    guards: list[list[tuple[GuardRecord, Policy | Off]]]

    @classmethod
    def of(cls, request: Request, manifest: Manifest, scheduler: SchedulerConfig) -> Preparation:
        """Everything is checked here, before a network runs."""
        size = request.size(manifest.geometry)
        _check_clip_skip(request, manifest.geometry.text_layers)
        _check_negative_prompt(request, manifest.geometry.time_cond_proj_dim)
        manifest.sizes.check(batch_size=len(request.prompts), height=size[0], width=size[1])
        guards = [_guards(manifest, request, image) for image in range(len(request.prompts))]
        prepared = cls(request, manifest, size, request.seeds(), _samplers(request, scheduler), guards)
        prepared._check_that_the_guard_can_act()
        return prepared

    @property
    def texts(self) -> list[str]:
        """What the text encoder reads: unconditional rows first, where there is guidance."""
        request = self.request
        return request.negative_prompts + request.prompts if self.branches == 2 else request.prompts

    @property
    def branches(self) -> int:
        """C: 2 if an image has classifier-free guidance, else 1."""
        free = not self.manifest.geometry.time_cond_proj_dim and any(scale > 1 for scale in self.request.guidance_scales)
        return 2 if free else 1

    @property
    def clip_skips(self) -> list[int]:
        """Of each text. diffusers reads negative prompts with every layer."""
        skips = self.request.clip_skips
        return [0] * (len(self.texts) - len(skips)) + skips

    def start(self, embeds: np.ndarray) -> Start:
        """Where the loop starts, with the embeddings of `texts`, float32 [C·B, 77, D]."""
        factor, width = self.manifest.geometry.scale_factor, self.manifest.geometry.time_cond_proj_dim
        latent = (LATENT_CHANNELS, self.size[0] // factor, self.size[1] // factor)
        streams = [NormalStream(seed) for seed in self.seeds]
        noise = np.stack([stream.draw(latent) for stream in streams])
        return Start(
            embeds=embeds,
            noise=noise,
            steps=self._steps,
            step_noise=self._step_noise(streams, latent),
            guidance_scale=self.request.effective_guidance,
            numbers=None if self.request.unguarded else self._guard_numbers(),
            delayed=[check == "beside" for check in self.checks] if self._before else [False] * len(streams),
            timestep_cond=guidance_embedding(self.request.guidance_scales, width) if width else None,
        )

    def shape(self, start: Start) -> LoopShape:
        """Of the loop that runs it."""
        images, _, height, width = start.noise.shape
        return LoopShape(
            rows=len(start.steps.timesteps),
            slots=start.steps.slots,
            noisy=start.step_noise is not None,
            concepts=0 if self.request.unguarded else len(self.manifest.guards),
            before=self._before,
            final_check=not self.request.unguarded,
            images=images,
            branches=self.branches,
            height=height,
            width=width,
            embed_dim=start.embeds.shape[2],
            time_cond_proj_dim=self.manifest.geometry.time_cond_proj_dim,
        )

    @cached_property
    def checks(self) -> list[str]:
        """Of each image, whether its guard runs "before" or "beside" the UNet of a step."""
        wanted = [check or self.manifest.check for check in self.request.checks]
        short = [steps < CHECK_BEFORE_UNDER for steps in self.request.step_counts]
        return [("before" if few else "beside") if check == AUTO else check for check, few in zip(wanted, short, strict=True)]

    def terms(self, image: int) -> Terms:
        """How an image is judged."""
        request = self.request
        return Terms(self.samplers[image].rows, request.modes[image], self.checks[image], request.forced_verdict)

    @property
    def _before(self) -> bool:
        """Whether the loop's guard runs before the UNet: an image that wants it beside is then redirected one call later."""
        return not self.request.unguarded and "before" in self.checks

    @cached_property
    def _steps(self) -> Batch:
        return Batch.of(self.samplers)

    def _step_noise(self, streams: Sequence[NormalStream], latent: tuple[int, ...]) -> np.ndarray | None:
        """Noise of the rows that take some, float32 [R, B, 4, H, W]: from each image's own stream, as if it were alone."""
        if not self._steps.noisy.any():
            return None
        noise = np.zeros((len(self._steps.timesteps), len(streams), *latent), np.float32)
        for image, (stream, sampler) in enumerate(zip(streams, self.samplers, strict=True)):
            for row in np.nonzero(sampler.noisy)[0]:
                noise[row, image] = stream.draw(latent)
        return noise

    def _guard_numbers(self) -> GuardNumbers:
        """What the guard's engine is given."""
        images = [[self.terms(image).numbers(policy) for _, policy in guards] for image, guards in enumerate(self.guards)]
        concepts = [*zip(*images, strict=True)]  # [K][B]
        rows = ["unconditional", "conditional"][-self.branches :]
        return GuardNumbers(
            alpha_scale=[[getattr(numbers, row) for row in rows for numbers in concept] for concept in concepts],
            threshold=[[numbers.threshold for numbers in concept] for concept in concepts],
            final_threshold=[[numbers.final_threshold for numbers in concept] for concept in concepts],
            replace_steps=[[numbers.replace_steps for numbers in concept] for concept in concepts],
            countdown=[[numbers.countdown for numbers in concept] for concept in concepts],
        )

    def _check_that_the_guard_can_act(self) -> None:
        if self.request.unguarded:
            return
        for check, mode, sampler in zip(self.checks, self.request.modes, self.samplers, strict=True):
            if check == "beside" and mode == "redirect" and sampler.rows == 1:
                raise InputError(
                    "check: expected before, for beside the only UNet call nothing can be redirected, found beside with "
                    "num_inference_steps 1; choose check before, or on_unsafe refuse"
                )


def _check_clip_skip(request: Request, layers: int) -> None:
    if (most := max(request.clip_skips)) > layers:
        raise InputError(f"clip_skip: expected at most {layers}, the layers of this model's text encoder, found {most}")


def _check_negative_prompt(request: Request, time_cond_proj_dim: int) -> None:
    """diffusers would ignore it."""
    if time_cond_proj_dim and (found := next(filter(None, request.negative_prompts), None)) is not None:
        raise InputError(
            "negative_prompt: expected none, for this model's guidance is an input of its UNet, which reads the prompt alone, "
            f"found {shown(found)}"
        )


def _samplers(request: Request, scheduler: SchedulerConfig) -> list[Recurrence]:
    """The sampler of each image; images that ask for the same share one."""
    names = [name or scheduler.class_name for name in request.schedulers]
    wanted = list(zip(names, request.step_counts, request.schedule_types, request.etas, strict=True))
    made = {
        (name, steps, kind, eta): recurrence(name, steps, scheduler, schedule_type=kind, eta=eta)
        for name, steps, kind, eta in dict.fromkeys(wanted)
    }
    return [made[key] for key in wanted]


def _guards(manifest: Manifest, request: Request, image: int) -> list[tuple[GuardRecord, Policy | Off]]:
    if request.unguarded:
        return []
    wanted = request.policies[image]
    if wanted is None or isinstance(wanted, Policy):
        return [(guard, wanted or guard.policy) for guard in manifest.guards]
    concepts = [guard.concept for guard in manifest.guards]
    if unknown := sorted(set(wanted) - set(concepts)):
        raise InputError(f"policy: expected concepts of {', '.join(concepts)}, found {', '.join(map(shown, unknown))}")
    if all(wanted.get(concept) == OFF for concept in concepts):
        raise InputError(
            f"policy: expected a concept to guard against, found {', '.join(concepts)} off; to generate without a guard, ask for "
            "that: unguarded"
        )
    return [(guard, wanted.get(guard.concept, guard.policy)) for guard in manifest.guards]
