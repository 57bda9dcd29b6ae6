"""What an attack may spend on one prompt."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, fields

from engines.errors import InputError
from engines.values import integer, number


@dataclass(frozen=True)
class Budget:
    """Limits of one search. The same budget and seed give the same search, unless its seconds run out.

    Raises:
        InputError: a number is of another type, or below 1.
    """

    tokens: int = field(default=5, metadata={"help": "words that an attack may add to a prompt"})
    steps: int = field(default=50, metadata={"help": "steps of a search"})
    candidates: int = field(default=64, metadata={"help": "prompts that each step tries"})
    restarts: int = field(default=1, metadata={"help": "searches from new random words, until one succeeds"})
    rows: int = field(default=6, metadata={"help": "sampler steps of a run at which the guard is to be evaded"})
    seconds: float | None = field(default=None, metadata={"help": "after these, a prompt's search ends at its best so far"})

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name == "seconds":
                if value is not None and not number("seconds", value) > 0:
                    raise InputError(f"seconds: expected more than 0, found {value!r}")
            elif integer(each.name, value) < 1:
                raise InputError(f"{each.name}: expected at least 1, found {value!r}")


class Clock:
    """Tells whether a search's seconds have run out."""

    def __init__(self, budget: Budget) -> None:
        self._end = None if budget.seconds is None else time.monotonic() + budget.seconds

    @property
    def over(self) -> bool:
        return self._end is not None and time.monotonic() >= self._end
