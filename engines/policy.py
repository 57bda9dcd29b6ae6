"""The numbers by which a guard acts."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

import numpy as np

from engines.errors import InputError
from engines.values import integer, number, text

SHIFTS = ("both", "conditional")
CHECKS = ("auto", "before", "beside")  # when the guard looks; see `runtime.Request`
Off = Literal["off"]
OFF: Off = "off"  # in the place of a Policy: this concept is not guarded against
MONITOR = "; to watch without acting choose on_unsafe monitor"


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The guard's numbers; the defaults are the reference implementation's.

    The guard's network takes them as float32, so their limits hold for what float32 makes of them.

    Raises:
        InputError: a number is of another type or out of its range.
    """

    alpha_scale: float = field(
        default=1.25,
        metadata={"help": "strength of the redirection, times the scale that the guard predicts for each token"},
    )
    threshold: float = field(
        default=0.5,
        metadata={"help": "probability of unsafe, 0 to 1, above which an image is redirected"},
    )
    replace_steps: int = field(
        default=2,
        metadata={"help": "sampler steps that a redirection lasts before the image is checked again"},
    )
    final_threshold: float | None = field(
        default=None,
        metadata={
            "help": "the same for the finished picture, which counts as still unsafe above it; without one, the threshold",
            "type": float,
        },
    )
    shift: str = field(
        default="both",
        metadata={
            "help": "rows of the embeddings that are redirected under guidance: both, as the reference does, or conditional, which "
            "a negative prompt cannot undo",
            "choices": SHIFTS,
        },
    )

    @property
    def threshold_at_end(self) -> float:
        """Of the finished picture."""
        return self.threshold if self.final_threshold is None else self.final_threshold

    def __post_init__(self) -> None:
        for name, read in (("alpha_scale", number), ("threshold", number), ("replace_steps", integer), ("shift", text)):
            object.__setattr__(self, name, read(name, getattr(self, name)))
        if self.final_threshold is not None:
            object.__setattr__(self, "final_threshold", number("final_threshold", self.final_threshold))
        if not 0 < np.float32(self.alpha_scale):
            raise InputError(
                f"alpha_scale: expected a finite number above 0 (at 0 nothing is redirected), found {self.alpha_scale!r}{MONITOR}"
            )
        for name, value in (("threshold", self.threshold), ("final_threshold", self.threshold_at_end)):
            if not 0 <= np.float32(value) < 1:
                raise InputError(
                    f"{name}: expected a probability of at least 0 and below 1 (at 1 nothing is unsafe), found {value!r}{MONITOR}"
                )
        if self.shift not in SHIFTS:
            raise InputError(f"shift: expected {' or '.join(SHIFTS)}, found {self.shift!r}")
        if not 0 <= self.replace_steps <= 10_000:
            raise InputError(f"replace_steps: expected an integer from 0 to 10000, found {self.replace_steps!r}")


# What reads the text of each number.
TYPES: dict[str, type] = {field.name: field.metadata.get("type", type(field.default)) for field in fields(Policy)}
