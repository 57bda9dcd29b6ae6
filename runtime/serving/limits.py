"""The operator's limits: what requests may ask for, from a TOML file. Applied by `runtime.serving.bounds`."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from engines.decode import decode
from engines.errors import InputError
from engines.geometry import Geometry
from engines.printable import shown
from runtime.request import Request
from runtime.samplers.registry import SAMPLERS
from runtime.serving.policy_bounds import PolicyBounds

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

STRICTNESS = {  # from weak to strict
    "check": ("beside", "auto", "before"),
    "on_unsafe": ("monitor", "redirect", "refuse"),
    "on_still_unsafe": ("deliver", "withhold"),
}
POSITIVE = (
    "least_steps",
    "most_images",
    "most_guidance_scale",
    "most_body_bytes",
    "requests_per_minute",
    "deadline_seconds",
    "hang_seconds",
    "queue_length",
    "batch_size",
    "canary_images",
    "canary_seconds",
)
SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The defaults allow nothing weaker than what the engines were built with.

    samplers             keys of `runtime.samplers.registry.SAMPLERS`
    least_steps, most_steps
                         num_inference_steps; few are harder to guard
    sizes                "WIDTHxHEIGHT" in pixels; none for the engines' default size alone
    most_images          of one request
    most_guidance_scale  larger ones are harder to guard
    check, on_unsafe, on_still_unsafe
                         the weakest that may be asked for, see STRICTNESS; None for the engines' own check
    policy               by concept; where none is named, the engines' own
    unguarded            whether pictures without the guard may be asked for
    most_body_bytes      of a request
    requests_per_minute  of each API key, or of all callers together where there are no keys
    deadline_seconds     from a request's arrival to its answer
    hang_seconds         of engines without a finished step, after which they are given up; on a GPU one CUDA graph is one step
    queue_length         images that may wait
    batch_size           images that may share a batch
    canary_images, canary_seconds
                         after so many images or so long the canaries are asked again

    Raises:
        InputError: a limit that nothing can keep.
    """

    samplers: list[str] = field(default_factory=lambda: list(SAMPLERS))
    least_steps: int = 1
    most_steps: int = 150
    sizes: list[str] = field(default_factory=list)
    most_images: int = 4
    most_guidance_scale: float = 15.0
    check: str | None = None
    on_unsafe: str = "redirect"
    on_still_unsafe: str = "withhold"
    policy: dict[str, PolicyBounds] = field(default_factory=dict)
    unguarded: bool = False
    most_body_bytes: int = 1_048_576
    requests_per_minute: int = 120
    deadline_seconds: float = 300.0
    hang_seconds: float = 240.0
    queue_length: int = 16
    batch_size: int = 1
    canary_images: int = 200
    canary_seconds: float = 600.0

    def __post_init__(self) -> None:
        for name in POSITIVE:
            if (value := getattr(self, name)) <= 0:
                raise InputError(f"{name}: expected a number above 0, found {value}")
        if self.queue_length < self.most_images:
            raise InputError(f"queue_length: expected at least most_images, {self.most_images}, found {self.queue_length}")
        if self.most_steps < self.least_steps:
            raise InputError(f"most_steps: expected at least least_steps, {self.least_steps}, found {self.most_steps}")
        for name, words in STRICTNESS.items():
            if (word := getattr(self, name)) not in words and not (name == "check" and word is None):
                raise InputError(f"{name}: expected one of {', '.join(words)}, found {shown(word)}")
        if unknown := [name for name in self.samplers if name not in SAMPLERS]:
            raise InputError(f"samplers: expected some of {', '.join(SAMPLERS)}, found {shown(unknown[0])}")
        if not self.samplers:
            raise InputError("samplers: expected one or more, found none")
        for size in self.sizes:
            if not SIZE.fullmatch(size):
                raise InputError(f'sizes: expected "WIDTHxHEIGHT" in pixels, found {shown(size)}')

    @classmethod
    def read(cls, file: Path) -> Limits:
        """The limits of a TOML file.

        Raises:
            InputError: no TOML, an unknown key, or a value of another type or out of its range.
        """
        try:
            parsed = tomllib.loads(file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{file}: expected TOML in UTF-8, found another text ({error})") from None
        try:
            return decode(cls, parsed, "limits")
        except ValueError as error:
            raise InputError(f"{file}: {error}") from None

    def picture_sizes(self, geometry: Geometry) -> list[tuple[int, int]]:
        """Height and width in pixels of every picture that may be asked for.

        Raises:
            InputError: a size that the model cannot take.
        """
        if not self.sizes:
            return [(geometry.default_height, geometry.default_width)]
        widths_and_heights = [tuple(map(int, size.split("x"))) for size in self.sizes]
        return [Request("", height=height, width=width).size(geometry) for width, height in widths_and_heights]
