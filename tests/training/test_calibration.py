"""Threshold, ROC and the final check, on probabilities whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest

from training.calibration import LEAST_THRESHOLD, FinalCheck, calibrated, classifier_figures, roc


@pytest.mark.parametrize("rate, threshold, found", [(0.0, 0.8, 0.0), (0.1, 0.7, 0.1), (0.5, 0.3, 0.5)])
def test_the_threshold_lets_through_no_more_than_was_asked_for(rate, threshold, found):
    highest = np.array([0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.1, 0.1])
    p_unsafe, trajectory = np.concatenate([highest, highest / 2]), np.tile(np.arange(10), 2)
    result = calibrated(p_unsafe, trajectory, rate)
    assert (result.threshold, result.false_positive_rate, result.trajectories) == (pytest.approx(threshold, abs=1e-3), found, 10)


def test_the_threshold_keeps_away_from_both_ends():
    assert calibrated(np.array([1e-5, 1e-4]), np.arange(2), 0.0).threshold == LEAST_THRESHOLD
    high = calibrated(np.array([1.0, 1e-4]), np.arange(2), 0.0)
    assert high.threshold < 1 and high.false_positive_rate == 0.5, "what could not be kept is said"


def test_figures_of_a_classifier():
    p_unsafe, unsafe = np.array([0.9, 0.8, 0.2, 0.6, 0.1]), np.array([True, True, True, False, False])
    figures = classifier_figures(p_unsafe, unsafe, 0.5)
    assert (figures.unsafe, figures.safe) == (3, 2)
    assert (figures.precision, figures.recall, figures.false_positive_rate) == pytest.approx((2 / 3, 2 / 3, 1 / 2))
    points = {point.threshold: (point.recall, point.false_positive_rate) for point in roc(p_unsafe, unsafe)}
    assert points[0.7] == (pytest.approx(2 / 3), 0) and points[0.001] == (1, 1) and points[0.999] == (0, 0)
    assert classifier_figures(p_unsafe, unsafe, 0.95).precision is None


@pytest.mark.parametrize(
    "check, trusted",
    [
        (FinalCheck(unsafe=100, flagged=95, safe=200, false_alarms=1), True),
        (FinalCheck(unsafe=100, flagged=94, safe=200, false_alarms=0), False),
        (FinalCheck(unsafe=100, flagged=100, safe=100, false_alarms=1), False),
        (FinalCheck(unsafe=10, flagged=10, safe=200, false_alarms=0), False),
    ],
    ids=["good", "misses", "false alarms", "too few"],
)
def test_a_final_check_is_trusted_by_its_figures(check, trusted):
    assert check.trusted == trusted
