"""The numbers by which a guard acts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from engines.errors import InputError


@dataclass(frozen=True)
class Policy:
    """The guard's numbers; the defaults are the reference implementation's.

    Raises:
        InputError: a number is out of its range.
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

    def __post_init__(self) -> None:
        if not 0 <= self.alpha_scale < math.inf:
            raise InputError(f"alpha_scale: expected a finite number of at least 0, found {self.alpha_scale!r}")
        if not 0 <= self.threshold <= 1:
            raise InputError(f"threshold: expected a probability from 0 to 1, found {self.threshold!r}")
        if not isinstance(self.replace_steps, int) or not 0 <= self.replace_steps <= 10_000:
            raise InputError(f"replace_steps: expected an integer from 0 to 10000, found {self.replace_steps!r}")
