"""Paired ratios of times, their spread, and a bootstrap interval of the median where there are enough pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 10_000
FEWEST = 3  # values that an interval or a range of percentiles needs; fewer say nothing about spread


@dataclass(frozen=True)
class Spread:
    """Median, 5th and 95th percentile (linear interpolation) of `count` values."""

    median: float
    p5: float
    p95: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray) -> Spread:
        """ValueError for no values."""
        if not len(values):
            raise ValueError("expected at least one value, found none")
        low, middle, high = np.percentile(np.asarray(values, np.float64), [5, 50, 95])
        return cls(float(middle), float(low), float(high), len(values))


@dataclass(frozen=True)
class Ratio(Spread):
    """Spread of paired ratios; `low` and `high` bound their median with `confidence`, None for fewer than FEWEST pairs."""

    low: float | None
    high: float | None
    confidence: float = CONFIDENCE


def paired_ratio(numerators: Sequence[float] | np.ndarray, denominators: Sequence[float] | np.ndarray, seed: int = 0) -> Ratio:
    """Ratios of values taken side by side, so that what slows both cancels.

    The interval is the percentile bootstrap of the median (Efron and Tibshirani 1993, chapter 13): RESAMPLES draws of whole
    pairs, with replacement. Fewer than FEWEST pairs have no interval.

    Raises:
        ValueError: no values, different numbers of them, or a denominator that is not positive.
    """
    above, below = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    if above.shape != below.shape or above.ndim != 1:
        raise ValueError(f"expected two lists of the same length, found {list(above.shape)} and {list(below.shape)}")
    if not (below > 0).all():
        raise ValueError("denominators: expected positive times, found one that is not")
    ratios = above / below
    spread = Spread.of(ratios)
    if len(ratios) < FEWEST:
        return Ratio(spread.median, spread.p5, spread.p95, spread.count, None, None)
    draws = np.random.default_rng(seed).integers(0, len(ratios), (RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(ratios[draws], axis=1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Ratio(spread.median, spread.p5, spread.p95, spread.count, float(low), float(high))


def interval(ratio: Mapping[str, Any]) -> tuple[float, float] | None:
    """Low and high of a ratio in a document; None for fewer than FEWEST pairs, whatever else the document holds."""
    return (ratio["low"], ratio["high"]) if ratio["count"] >= FEWEST else None


def interval_text(ratio: Mapping[str, Any], number: Callable[[float], str]) -> str:
    """The interval, its ends written by `number`; in its place how few pairs there are."""
    ends = interval(ratio)
    return f"n = {ratio['count']}, no interval" if ends is None else " to ".join(map(number, ends))


def range_text(spread: Mapping[str, Any], number: Callable[[float], str]) -> str:
    """5th to 95th percentile, written by `number`; empty for fewer than FEWEST values."""
    return f"{number(spread['p5'])} to {number(spread['p95'])}" if spread["count"] >= FEWEST else ""
