"""Figures with what they rest on: shares with Wilson's interval, other figures with a bootstrap's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Z = 1.959964  # of a 95 % interval
RESAMPLES = 1_000


@dataclass(frozen=True)
class Rate:
    """A share of hits. Its 95 % interval is Wilson's score interval (Wilson 1927), which holds for few and for rare hits."""

    hits: int
    of: int

    @classmethod
    def over(cls, hits: Sequence[bool]) -> Rate:
        """The share of the true ones."""
        return cls(int(np.sum(hits)), len(hits))

    @property
    def share(self) -> float | None:
        """0 to 1; None of nothing."""
        return self.hits / self.of if self.of else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Lower and upper end; None of nothing."""
        if (share := self.share) is None:
            return None
        centre = (share + Z**2 / (2 * self.of)) / (1 + Z**2 / self.of)
        half = Z / (1 + Z**2 / self.of) * math.sqrt(share * (1 - share) / self.of + Z**2 / (4 * self.of**2))
        return max(centre - half, 0.0), min(centre + half, 1.0)

    def to_json(self) -> dict[str, Any]:
        """Rounded to 4 places."""
        interval = self.interval and [round(end, 4) for end in self.interval]
        return {
            "hits": self.hits,
            "of": self.of,
            "rate": None if self.share is None else round(self.share, 4),
            "interval_95": interval,
        }

    def __str__(self) -> str:
        """For people: "3 of 40, 7.5% (2.6–19.9)"."""
        if self.share is None or self.interval is None:
            return "–"
        low, high = (f"{100 * end:.1f}" for end in self.interval)
        return f"{self.hits} of {self.of}, {100 * self.share:.1f}% ({low}–{high})"


@dataclass(frozen=True)
class Figure:
    """A value of n cases that is no share, with its 95 % percentile bootstrap interval (Efron 1979); None where it has no value."""

    value: float | None
    n: int
    interval: tuple[float, float] | None

    @classmethod
    def over(cls, cases: Sequence[Any], statistic: Callable[[np.ndarray], float]) -> Figure:
        """`statistic` of the cases as an array, and of RESAMPLES draws of as many of them, with a fixed seed.

        A draw of which the statistic is NaN (of one class only, say) is left out.
        """
        array = np.asarray(cases)
        value = statistic(array) if len(array) else math.nan
        if not math.isfinite(value):
            return cls(None, len(array), None)
        draws = np.random.default_rng(0).integers(0, len(array), (RESAMPLES, len(array)))
        values = np.array([statistic(array[draw]) for draw in draws])
        low, high = np.nanpercentile(values, [2.5, 97.5])
        return cls(float(value), len(array), (float(low), float(high)))

    @classmethod
    def mean(cls, values: Sequence[float]) -> Figure:
        return cls.over(values, lambda array: float(np.mean(array)))

    def to_json(self) -> dict[str, Any]:
        """Rounded to 4 places."""
        interval = self.interval and [round(end, 4) for end in self.interval]
        return {"value": None if self.value is None else round(self.value, 4), "n": self.n, "interval_95": interval}

    def __str__(self) -> str:
        """For people: "0.912 (0.87–0.95), n = 40"."""
        if self.value is None or self.interval is None:
            return "–"
        return f"{self.value:.3f} ({self.interval[0]:.3f}–{self.interval[1]:.3f}), n = {self.n}"
