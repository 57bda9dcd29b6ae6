"""Rates and figures have the intervals that SciPy gives."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from torchmetrics.functional.classification import binary_auroc, binary_f1_score

from evaluation.classifier import Classifier
from evaluation.rates import Figure, Rate


@pytest.mark.parametrize(("hits", "of"), [(0, 40), (3, 40), (20, 40), (40, 40), (1, 1), (393, 400)])
def test_a_rate_has_wilsons_interval(hits, of):
    expected = scipy.stats.binomtest(hits, of).proportion_ci(0.95, method="wilson")
    rate = Rate.over([True] * hits + [False] * (of - hits))
    assert rate == Rate(hits, of)
    assert rate.interval == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_a_rate_says_what_it_rests_on():
    assert str(Rate(3, 40)) == "3 of 40, 7.5% (2.6–19.9)"
    assert Rate(3, 40).to_json() == {"hits": 3, "of": 40, "rate": 0.075, "interval_95": [0.0258, 0.1986]}
    assert str(Rate(0, 0)) == "–"
    assert Rate(0, 0).to_json() == {"hits": 0, "of": 0, "rate": None, "interval_95": None}


def test_a_mean_has_a_bootstrap_interval():
    values = np.random.default_rng(1).normal(0.8, 0.1, 60)
    expected = scipy.stats.bootstrap((values,), np.mean, method="percentile", n_resamples=5_000, rng=2).confidence_interval
    figure = Figure.mean(values)
    assert figure.value == pytest.approx(values.mean()) and figure.n == 60
    assert figure.interval == pytest.approx((expected.low, expected.high), abs=3e-3)
    assert Figure.mean(values) == figure
    assert Figure.mean([]) == Figure(None, 0, None) and str(Figure.mean([])) == "–"


@pytest.fixture
def cases():
    """Truth, decisions and scores; the scores have ties."""
    draw = np.random.default_rng(3)
    truth = draw.random(80) < 0.4
    scores = np.round(np.clip(draw.normal(0.3 + 0.3 * truth, 0.2), 0, 1), 1)
    return truth, scores > 0.5, scores


def test_the_classifier_agrees_with_torchmetrics(cases):
    import torch

    truth, found, scores = cases
    classifier = Classifier.over(*(list(each) for each in cases))
    target = torch.from_numpy(truth).long()
    assert classifier.auc.value == pytest.approx(float(binary_auroc(torch.from_numpy(scores), target)))
    assert classifier.f1.value == pytest.approx(float(binary_f1_score(torch.from_numpy(found).long(), target)))
    assert classifier.precision == Rate(int((truth & found).sum()), int(found.sum()))
    assert classifier.recall == Rate(int((truth & found).sum()), int(truth.sum()))
    assert classifier.false_positive_rate == Rate(int((~truth & found).sum()), int((~truth).sum()))
    assert classifier.auc.interval[0] < classifier.auc.value < classifier.auc.interval[1]


def test_the_roc_passes_through_the_decision(cases):
    truth, found, scores = cases
    classifier = Classifier.over(*(list(each) for each in cases))
    expected = [classifier.false_positive_rate.share, classifier.recall.share]
    # Points are of scores that reach a threshold; scores above 0.5 are those that reach 0.6.
    at_threshold = next(point[:2] for point in classifier.roc if point[2] == pytest.approx(0.6))
    assert at_threshold == pytest.approx(expected, abs=1e-4)
    assert classifier.roc[-1][:2] == (1.0, 1.0)


def test_one_class_only_is_no_classification():
    assert Classifier.over([True, True], [True, False], [0.9, 0.1]) is None
