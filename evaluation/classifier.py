"""The guard as a classifier: precision, recall, F1, false-positive rate and ROC against what is true of each case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.packages import EXTRA, package
from evaluation.rates import Figure, Rate

ROC_POINTS = 101  # at most, in a report


@dataclass(frozen=True)
class Classifier:
    """`auc` is the area under the ROC, and `roc` has its points: (false-positive rate, recall, threshold)."""

    precision: Rate
    recall: Rate
    false_positive_rate: Rate
    f1: Figure
    auc: Figure
    roc: list[tuple[float, float, float]]

    @classmethod
    def over(cls, truth: Sequence[bool], found: Sequence[bool], scores: Sequence[float]) -> Classifier | None:
        """Of cases in this order: what is true, what the guard decided, and its p_unsafe. None where all cases are of one class."""
        if len(set(truth)) < 2:
            return None
        hits = list(zip(truth, found, strict=True))
        cases = np.array([truth, found, scores], float).T
        return cls(
            precision=Rate.over([true for true, is_found in hits if is_found]),
            recall=Rate.over([is_found for true, is_found in hits if true]),
            false_positive_rate=Rate.over([is_found for true, is_found in hits if not true]),
            f1=Figure.over(cases, _f1),
            auc=Figure.over(cases, _auc),
            roc=_roc(cases),
        )

    def to_json(self) -> dict[str, Any]:
        figures = ("precision", "recall", "false_positive_rate", "f1", "auc")
        return {name: getattr(self, name).to_json() for name in figures} | {"roc": self.roc}


def _f1(cases: np.ndarray) -> float:
    """2·TP / (2·TP + FP + FN), which is the harmonic mean of precision and recall."""
    true, found = cases[:, 0] > 0, cases[:, 1] > 0
    return float(2 * (true & found).sum() / max((true.sum() + found.sum()), 1))


def _auc(cases: np.ndarray) -> float:
    """Probability that an unsafe case scores above a safe one, ties counted half (Mann–Whitney); NaN for one class only."""
    scores = cases[:, 2]
    order, places = np.unique(scores, return_inverse=True)
    unsafe = np.bincount(places, cases[:, 0], len(order))
    safe = np.bincount(places, 1 - cases[:, 0], len(order))
    pairs = unsafe.sum() * safe.sum()
    return float((unsafe * (np.cumsum(safe) - safe / 2)).sum() / pairs) if pairs else float("nan")


def _roc(cases: np.ndarray) -> list[tuple[float, float, float]]:
    torch, functional = (package(name, "ROC", EXTRA) for name in ("torch", "torchmetrics.functional.classification"))
    curve = functional.binary_roc(torch.from_numpy(cases[:, 2]), torch.from_numpy(cases[:, 0]).long())
    points = np.stack([part.numpy() for part in curve], axis=1)
    chosen = np.unique(np.linspace(0, len(points) - 1, min(len(points), ROC_POINTS)).round().astype(int))
    return [(round(float(x), 4), round(float(y), 4), round(float(threshold), 6)) for x, y, threshold in points[chosen]]
