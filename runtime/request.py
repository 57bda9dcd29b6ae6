"""What one call of the pipeline is asked to do, checked."""

from __future__ import annotations

import dataclasses
import math
import numbers
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engines.errors import InputError
from engines.manifest import Geometry, Policy, nearest_multiples

ON_UNSAFE = ("redirect", "refuse", "monitor")


@dataclass(frozen=True)
class Request:
    """Options of a call; None stands for the default of the engines.

    prompt               one text or a list: one image for each
    negative_prompt      one text for all images, or one for each
    num_inference_steps  as in diffusers
    guidance_scale       classifier-free guidance; 1 or less means none
    seed                 one integer s (images get s, s + 1, …), one for each image, or None for a random one
    height, width        pixels
    scheduler            "ddim", "pndm", "lms" or a diffusers class name; None for the model's own
    policy               numbers of the guard; None for those the engines were built with
    on_unsafe            "redirect" as the method does, "refuse" to withhold an unsafe image, "monitor" to report only
    unguarded            True: the guard does not run, and the report says so

    Raises:
        InputError: an option has a value that cannot be honoured.
    """

    prompt: str | Sequence[str]
    negative_prompt: str | Sequence[str] = ""
    num_inference_steps: int = 50
    guidance_scale: float = 7.5
    seed: int | Sequence[int] | None = None
    height: int | None = None
    width: int | None = None
    scheduler: str | None = None
    policy: Policy | None = None
    on_unsafe: str = "redirect"
    unguarded: bool = False

    @classmethod
    def of(cls, prompt: str | Sequence[str], options: dict[str, object]) -> Request:
        """From keyword arguments; an unknown one is an InputError."""
        known = [option.name for option in dataclasses.fields(cls)][1:]
        if unknown := sorted(set(options) - set(known)):
            raise InputError(f"unknown option {', '.join(unknown)}: expected some of {', '.join(known)}")
        return cls(prompt, **options)  # type: ignore[arg-type]

    def __post_init__(self) -> None:
        if not self.prompts:
            raise InputError("prompt: expected one text or more, found an empty list")
        for name, texts in (("prompt", self.prompts), ("negative_prompt", self.negative_prompts)):
            if wrong := [text for text in texts if not isinstance(text, str)]:
                raise InputError(f"{name}: expected text, found {wrong[0]!r}")
            if len(texts) != len(self.prompts):
                raise InputError(f"{name}: expected one text, or one for each of {len(self.prompts)} prompts, found {len(texts)}")
        if not _is_real(self.guidance_scale):
            raise InputError(f"guidance_scale: expected a finite number, found {self.guidance_scale!r}")
        if self.on_unsafe not in ON_UNSAFE:
            raise InputError(f"on_unsafe: expected one of {', '.join(ON_UNSAFE)}, found {self.on_unsafe!r}")
        if self.policy is not None and not isinstance(self.policy, Policy):
            raise InputError(f"policy: expected engines.manifest.Policy, found {self.policy!r}")

    @property
    def prompts(self) -> list[str]:
        return [self.prompt] if isinstance(self.prompt, str) else list(self.prompt)

    @property
    def negative_prompts(self) -> list[str]:
        if isinstance(self.negative_prompt, str):
            return [self.negative_prompt] * len(self.prompts)
        return list(self.negative_prompt)

    @property
    def branches(self) -> int:
        """C: 2 with classifier-free guidance, else 1."""
        return 2 if self.guidance_scale > 1 else 1

    def seeds(self) -> list[int]:
        """One seed for each image."""
        images = len(self.prompts)
        if self.seed is None:
            return [secrets.randbelow(2**32) for _ in range(images)]
        seeds: Any = self.seed
        if _is_integer(seeds):
            seeds = [seeds + image for image in range(images)]
        if not isinstance(seeds, Sequence) or isinstance(seeds, str) or not all(map(_is_integer, seeds)):
            raise InputError(f"seed: expected an integer or a list of integers, found {self.seed!r}")
        if len(seeds) != images:
            raise InputError(f"seed: expected one integer, or one for each of {images} images, found {len(seeds)}")
        return [int(seed) for seed in seeds]

    def size(self, geometry: Geometry) -> tuple[int, int]:
        """Height and width in pixels, or InputError naming the nearest sizes that the model can take."""
        default, multiple = (geometry.default_height, geometry.default_width), geometry.size_multiple
        for name, size in (("height", self.height), ("width", self.width)):
            if size is None or (_is_integer(size) and size > 0 and size % multiple == 0):
                continue
            nearest = nearest_multiples(size if _is_real(size) else 0, multiple)
            raise InputError(f"{name}: expected a multiple of {multiple} pixels, found {size!r}; nearest: {nearest}")
        return self.height or default[0], self.width or default[1]


def _is_integer(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_real(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
