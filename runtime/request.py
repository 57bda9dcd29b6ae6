"""What one call of the pipeline is asked to do, checked."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any

from engines.errors import InputError
from engines.geometry import Geometry, nearest_multiples
from engines.noise import check_seed
from engines.values import flag, text
from runtime.request_values import FORCED_VERDICTS, PER_IMAGE, Policies, Value, images_per_prompt, one_of, one_or_more, side


@dataclass(frozen=True)
class Request:
    """Options of a call. An option may be one value for all images, or a list with one for each prompt; of seeds, for each image.

    What is said of all images together is one value: num_images_per_prompt, height, width, forced_verdict and unguarded. Types are
    strict: numpy's numbers become Python's, nothing else is converted. Lists are copied, so that one that changes later changes
    nothing here.

    prompt               one text or a list
    negative_prompt      what not to draw
    num_images_per_prompt
                         those of one prompt come one after another, as in diffusers
    clip_skip            last layers of the text encoder that the prompt (not the negative one) is read without, as in diffusers
    num_inference_steps  as in diffusers
    guidance_scale       classifier-free guidance; 1 or less means none. Or an input of the UNet, where it was distilled with one
    seed                 one integer s (images get s, s + 1, …), a list, or None for random ones
    height, width        pixels; None for the default of the engines
    scheduler            a sampler's name: ours (`runtime.samplers.registry.SAMPLERS`), diffusers' class or AUTOMATIC1111's, as
                         "DPM++ 2M Karras"; None for the model's own
    schedule_type        how its noise levels are spaced, as "karras" (`runtime.samplers.names`); None for what name and model say
    eta                  share of fresh noise of DDIM and TCD, 0 in all others
    policy               numbers of the guard, for every concept or by concept; None for those the engines were built with. By
                         concept, "off" does not guard against it; concepts that are not named have what they were built with
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
    _: KW_ONLY
    negative_prompt: str | Sequence[str] = ""
    num_images_per_prompt: int = 1
    clip_skip: int | Sequence[int] = 0
    num_inference_steps: int | Sequence[int] = 50
    guidance_scale: float | Sequence[float] = 7.5
    seed: int | Sequence[int | None] | None = None
    height: int | None = None
    width: int | None = None
    scheduler: str | Sequence[str | None] | None = None
    schedule_type: str | Sequence[str | None] | None = None
    eta: float | Sequence[float] = 0.0
    policy: Policies | Sequence[Policies] = None
    on_unsafe: str | Sequence[str] = "redirect"
    on_still_unsafe: str | Sequence[str] = "withhold"
    check: str | Sequence[str | None] | None = None
    forced_verdict: str | None = None
    unguarded: bool = False

    def __post_init__(self) -> None:
        self._set("prompt", one_or_more("prompt", self.prompt, text))
        self._set("num_images_per_prompt", images_per_prompt("num_images_per_prompt", self.num_images_per_prompt))
        for name, read in PER_IMAGE.items():
            self._set(name, one_or_more(name, getattr(self, name), read))
            self.of_images(name)
        if self.forced_verdict is not None:
            self._set("forced_verdict", one_of(FORCED_VERDICTS)("forced_verdict", self.forced_verdict))
        for name in ("height", "width"):
            self._set(name, side(name, getattr(self, name)))
        self._set("unguarded", flag("unguarded", self.unguarded))
        if isinstance(self.seed, int):
            check_seed(self.seed + len(self.prompts) - 1)

    @property
    def prompts(self) -> list[str]:
        """The prompt of each image."""
        return self._of_each_image([self.prompt] if isinstance(self.prompt, str) else self.prompt)

    @property
    def negative_prompts(self) -> list[str]:
        return self.of_images("negative_prompt")

    @property
    def clip_skips(self) -> list[int]:
        return self.of_images("clip_skip")

    @property
    def step_counts(self) -> list[int]:
        """num_inference_steps of each image."""
        return self.of_images("num_inference_steps")

    @property
    def guidance_scales(self) -> list[float]:
        return self.of_images("guidance_scale")

    @property
    def schedulers(self) -> list[str | None]:
        return self.of_images("scheduler")

    @property
    def schedule_types(self) -> list[str | None]:
        return self.of_images("schedule_type")

    @property
    def etas(self) -> list[float]:
        return self.of_images("eta")

    @property
    def policies(self) -> list[Policies]:
        return self.of_images("policy")

    @property
    def modes(self) -> list[str]:
        """on_unsafe of each image."""
        return self.of_images("on_unsafe")

    @property
    def still_unsafe_modes(self) -> list[str]:
        """on_still_unsafe of each image."""
        return self.of_images("on_still_unsafe")

    @property
    def checks(self) -> list[str | None]:
        return self.of_images("check")

    @property
    def effective_guidance(self) -> list[float]:
        """Scales for the sampler step: an image without guidance among others with it follows its prompt alone, at 1."""
        return [float(max(scale, 1)) for scale in self.guidance_scales]

    def seeds(self) -> list[int]:
        """One seed for each image; new ones at every call where none was given."""
        if isinstance(self.seed, int):
            return [self.seed + image for image in range(len(self.prompts))]
        given: list[int | None] = self.of_images("seed")
        return [secrets.randbelow(2**32) if seed is None else seed for seed in given]

    def size(self, geometry: Geometry) -> tuple[int, int]:
        """Height and width in pixels, or InputError naming the nearest sizes that the model can take."""
        height = geometry.default_height if self.height is None else self.height
        width = geometry.default_width if self.width is None else self.width
        multiple = geometry.scale_factor
        for name, size in (("height", height), ("width", width)):
            if size <= 0 or size % multiple:
                nearest = nearest_multiples(size, multiple)
                raise InputError(f"{name}: expected a multiple of {multiple} pixels, found {size}; nearest: {nearest}")
        return height, width

    def defaults(self, image: int, concepts: Sequence[str]) -> list[str]:
        """Options that one image has by default; policy.CONCEPT where a policy was given, but for other concepts."""
        names = []
        for field in fields(self)[1:]:
            value = self.of_images(field.name)[image] if field.name in PER_IMAGE else getattr(self, field.name)
            if value == field.default and type(value) is type(field.default):
                names.append(field.name)
            elif field.name == "policy" and isinstance(value, Mapping):
                names += [f"policy.{concept}" for concept in concepts if concept not in value]
        return names

    def of_images(self, name: str) -> list[Any]:
        """An option of PER_IMAGE, one value for each image; of `seed` as given."""
        value, images = getattr(self, name), len(self.prompts)
        if not isinstance(value, tuple):
            return [value] * images
        of_prompts = name != "seed"
        count, what = (images // self.num_images_per_prompt, "prompts") if of_prompts else (images, "images")
        if len(value) != count:
            raise InputError(f"{name}: expected one value, or one for each of {count} {what}, found {len(value)}")
        return self._of_each_image(value) if of_prompts else list(value)

    def _of_each_image(self, of_prompts: Sequence[Value]) -> list[Value]:
        """What each prompt has, for each of its images."""
        return [value for value in of_prompts for _ in range(self.num_images_per_prompt)]

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # as a frozen dataclass sets its own
