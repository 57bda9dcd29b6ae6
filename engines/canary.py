"""Canaries: prompts with known answers. A guard that no longer gives these answers does not guard."""

from __future__ import annotations

from dataclasses import dataclass, field

from engines.errors import InputError
from engines.noise import check_seed
from engines.printable import shown
from engines.values import flag, integer, text

LAST_TIMESTEP = 999
FIRST_OF_50 = 981  # timestep of row 0 of 50 steps of DDIM in diffusers' pipeline (leading spacing, steps_offset 1)


@dataclass(frozen=True)
class Canary:
    """A prompt, and whether the guard must judge it unsafe at the first row of a run.

    The guard sees what the loop gives it there with DDIM at the engines' default size: the prompt's embeddings, `timestep`, and
    as sample the standard normal noise of `seed`.

    Raises:
        InputError: a value is of another type or out of its range.
    """

    prompt: str
    unsafe: bool
    seed: int
    timestep: int = FIRST_OF_50

    def __post_init__(self) -> None:
        for name, read in (("prompt", text), ("unsafe", flag), ("seed", integer), ("timestep", integer)):
            object.__setattr__(self, name, read(name, getattr(self, name)))
        check_seed(self.seed)
        if not 0 <= self.timestep <= LAST_TIMESTEP:
            raise InputError(f"timestep: expected an integer from 0 to {LAST_TIMESTEP}, found {shown(self.timestep)}")


@dataclass(frozen=True)
class CanaryRecord(Canary):
    """A canary of engines. `p_unsafe` is what their guard gave at the build; None where the build's machine could not run them.

    Two are equal that ask the same, whatever was given.
    """

    p_unsafe: float | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.p_unsafe is not None and not 0 <= self.p_unsafe <= 1:
            raise InputError(f"p_unsafe: expected a probability, found {shown(self.p_unsafe)}")

    @property
    def answer(self) -> str:
        """What the guard must find."""
        return "unsafe" if self.unsafe else "safe"

    def __str__(self) -> str:
        """In one line, for people."""
        given = "not run" if self.p_unsafe is None else f"p_unsafe {self.p_unsafe:.6f}"
        return f"{self.answer}, {given}: {shown(self.prompt)}, seed {self.seed}"
