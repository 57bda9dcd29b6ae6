"""What one call of the pipeline is asked to do, checked."""

from __future__ import annotations

import math
import numbers
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from engines.errors import InputError
from engines.geometry import Geometry, nearest_multiples
from engines.policy import Policy
from runtime.judge import WHEN_UNSAFE

ON_UNSAFE = tuple(WHEN_UNSAFE)
ON_STILL_UNSAFE = ("withhold", "deliver")
CHECKS = ("auto", "before", "beside")
FORCED_VERDICTS = ("safe", "unsafe")
Value = TypeVar("Value")
Policies = Policy | Mapping[str, Policy] | None  # of one image: for every concept, or by concept


@dataclass(frozen=True)
class Request:
    """Options of a call. Every option but the size may be one value for all images, or a list with one for each.

    prompt               one text or a list: one image for each
    negative_prompt      what not to draw
    num_inference_steps  as in diffusers
    guidance_scale       classifier-free guidance; 1 or less means none
    seed                 one integer s (images get s, s + 1, …), one for each image, or None for a random one
    height, width        pixels; None for the default of the engines
    scheduler            a name in `runtime.samplers.registry.SAMPLERS` or a diffusers class name; None for the model's own
    policy               numbers of the guard, for every concept or by concept; None for those the engines were built with
    on_unsafe            "redirect" as the method does, "refuse" to withhold an unsafe image, "monitor" to report only
    on_still_unsafe      "withhold" or "deliver" a redirected image that the final check still judges unsafe
    check                "before": the guard looks before the UNet of a step and can redirect it; "beside": it looks meanwhile, as
                         the reference does, and redirects from the next call on; "auto": before for few steps; None for the
                         engines' default
    forced_verdict       "safe" or "unsafe": the guard runs, but decides so whatever it sees; for benchmarks with untrained guards,
                         and every report says so
    unguarded            True: the guard does not run, and the report says so; for all images

    Raises:
        InputError: an option has a value that cannot be honoured.
    """

    prompt: str | Sequence[str]
    negative_prompt: str | Sequence[str] = ""
    num_inference_steps: int | Sequence[int] = 50
    guidance_scale: float | Sequence[float] = 7.5
    seed: int | Sequence[int] | None = None
    height: int | None = None
    width: int | None = None
    scheduler: str | Sequence[str | None] | None = None
    policy: Policies | Sequence[Policies] = None
    on_unsafe: str | Sequence[str] = "redirect"
    on_still_unsafe: str | Sequence[str] = "withhold"
    check: str | Sequence[str | None] | None = None
    forced_verdict: str | None = None
    unguarded: bool = False

    def __post_init__(self) -> None:
        if not self.prompts:
            raise InputError("prompt: expected one text or more, found an empty list")
        for name, texts in (("prompt", self.prompts), ("negative_prompt", self.negative_prompts)):
            if wrong := [text for text in texts if not isinstance(text, str)]:
                raise InputError(f"{name}: expected text, found {wrong[0]!r}")
        for scale in self.guidance_scales:
            if not _is_real(scale):
                raise InputError(f"guidance_scale: expected a finite number, found {scale!r}")
        for mode in self.modes:
            if mode not in ON_UNSAFE:
                raise InputError(f"on_unsafe: expected one of {', '.join(ON_UNSAFE)}, found {mode!r}")
        for name, allowed, values in (
            ("on_still_unsafe", ON_STILL_UNSAFE, self.still_unsafe_modes),
            ("check", CHECKS, [check for check in self.checks if check is not None]),
            ("forced_verdict", FORCED_VERDICTS, [] if self.forced_verdict is None else [self.forced_verdict]),
        ):
            if wrong := [value for value in values if value not in allowed]:
                raise InputError(f"{name}: expected one of {', '.join(allowed)}, found {wrong[0]!r}")
        for policies in self.policies:
            for policy in policies.values() if isinstance(policies, Mapping) else [policies]:
                if policy is not None and not isinstance(policy, Policy):
                    raise InputError(f"policy: expected runtime.Policy, found {policy!r}")
        for steps, scheduler in zip(self.step_counts, self.schedulers, strict=True):
            if not _is_integer(steps):
                raise InputError(f"num_inference_steps: expected an integer, found {steps!r}")
            if scheduler is not None and not isinstance(scheduler, str):
                raise InputError(f"scheduler: expected a name, found {scheduler!r}")

    @property
    def prompts(self) -> list[str]:
        return [self.prompt] if isinstance(self.prompt, str) else list(self.prompt)

    @property
    def negative_prompts(self) -> list[str]:
        return self._per_image("negative_prompt", self.negative_prompt)

    @property
    def step_counts(self) -> list[int]:
        """num_inference_steps of each image."""
        return self._per_image("num_inference_steps", self.num_inference_steps)

    @property
    def guidance_scales(self) -> list[float]:
        return self._per_image("guidance_scale", self.guidance_scale)

    @property
    def schedulers(self) -> list[str | None]:
        return self._per_image("scheduler", self.scheduler)

    @property
    def policies(self) -> list[Policies]:
        return self._per_image("policy", self.policy)

    @property
    def modes(self) -> list[str]:
        """on_unsafe of each image."""
        return self._per_image("on_unsafe", self.on_unsafe)

    @property
    def still_unsafe_modes(self) -> list[str]:
        """on_still_unsafe of each image."""
        return self._per_image("on_still_unsafe", self.on_still_unsafe)

    @property
    def checks(self) -> list[str | None]:
        return self._per_image("check", self.check)

    @property
    def branches(self) -> int:
        """C: 2 if an image has classifier-free guidance, else 1."""
        return 2 if any(scale > 1 for scale in self.guidance_scales) else 1

    @property
    def effective_guidance(self) -> list[float]:
        """Scales for the sampler step: an image without guidance among others with it follows its prompt alone, at 1."""
        return [float(max(scale, 1)) for scale in self.guidance_scales]

    def seeds(self) -> list[int]:
        """One seed for each image."""
        images = len(self.prompts)
        if self.seed is None:
            return [secrets.randbelow(2**32) for _ in range(images)]
        seeds: Any = self.seed
        if _is_integer(seeds):
            return [int(seeds) + image for image in range(images)]
        if not isinstance(seeds, Sequence) or isinstance(seeds, str) or not all(map(_is_integer, seeds)):
            raise InputError(f"seed: expected an integer or a list of integers, found {self.seed!r}")
        given: list[int] = self._per_image("seed", seeds)
        return [int(seed) for seed in given]

    def size(self, geometry: Geometry) -> tuple[int, int]:
        """Height and width in pixels, or InputError naming the nearest sizes that the model can take."""
        default, multiple = (geometry.default_height, geometry.default_width), geometry.size_multiple
        for name, size in (("height", self.height), ("width", self.width)):
            if size is None or (_is_integer(size) and size > 0 and size % multiple == 0):
                continue
            nearest = nearest_multiples(size if _is_real(size) else 0, multiple)
            raise InputError(f"{name}: expected a multiple of {multiple} pixels, found {size!r}; nearest: {nearest}")
        return self.height or default[0], self.width or default[1]

    def _per_image(self, name: str, value: Value | Sequence[Value]) -> list[Value]:
        """One value for each image."""
        images = len(self.prompts)
        if isinstance(value, str) or not isinstance(value, Sequence):
            return [value] * images
        if len(value) != images:
            raise InputError(f"{name}: expected one value, or one for each of {images} images, found {len(value)}")
        return list(value)


def _is_integer(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_real(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
