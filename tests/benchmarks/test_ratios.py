"""Ratios and their intervals, against data with known answers."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.peers.contest import agreement, difference, figures
from benchmarks.suite.curves import fit
from benchmarks.suite.ratios import RESAMPLES, Spread, interval, interval_text, paired_ratio, range_text


def test_spread_of_known_values():
    assert Spread.of(range(101)) == Spread(50.0, 5.0, 95.0, 101)
    with pytest.raises(ValueError, match="at least one"):
        Spread.of([])


def test_what_slows_both_of_a_pair_cancels():
    machine = np.random.default_rng(0).uniform(1, 10, 40)
    ratio = paired_ratio(1.005 * machine, machine)
    assert [ratio.median, ratio.low, ratio.high, ratio.p5, ratio.p95] == pytest.approx([1.005] * 5)
    assert ratio.count == 40


def test_interval_covers_the_true_median_about_as_often_as_it_says():
    draw, hits, trials = np.random.default_rng(1), 0, 120
    for trial in range(trials):
        ratio = paired_ratio(draw.lognormal(np.log(1.02), 0.05, 31), np.ones(31), seed=trial)
        hits += ratio.low <= 1.02 <= ratio.high
    assert 0.88 <= hits / trials <= 1.0


def test_interval_of_three_pairs_has_its_exact_probabilities():
    # The median of three draws from three values is the smallest in 7 of 27 cases, so both ends reach the extremes.
    ratio = paired_ratio([1.0, 2.0, 4.0], [1.0, 1.0, 1.0])
    assert (ratio.low, ratio.median, ratio.high) == (1.0, 2.0, 4.0) and RESAMPLES >= 1000


@pytest.mark.parametrize("pairs", [1, 2])
def test_fewer_than_three_pairs_have_no_interval(pairs):
    ratio = paired_ratio([1.0, 2.0][:pairs], [1.0, 1.0][:pairs])
    assert (ratio.count, ratio.low, ratio.high) == (pairs, None, None) and ratio.median == (1 + pairs) / 2


@pytest.mark.parametrize("count, ends, between", [(3, "1.10 to 1.30", "1.15 to 1.25"), (2, "n = 2, no interval", "")])
def test_an_interval_in_a_document_counts_from_three_pairs_on(count, ends, between):
    published = {"median": 1.2, "p5": 1.15, "p95": 1.25, "low": 1.1, "high": 1.3, "count": count}
    assert interval(published) == ((1.1, 1.3) if count == 3 else None)
    assert interval_text(published, "{:.2f}".format) == ends and range_text(published, "{:.2f}".format) == between


@pytest.mark.parametrize("above, below", [([1.0], [1.0, 2.0]), ([1.0], [0.0]), ([1.0], [float("nan")]), ([], [])], ids=str)
def test_what_is_no_pair_of_times_is_an_error(above, below):
    with pytest.raises(ValueError):
        paired_ratio(above, below)


def test_a_steady_drift_cancels_in_abba_order():
    times = np.arange(1.0, 41.0)  # the machine slows with every run; ours, peer, peer, ours
    ours, peer = times.reshape(-1, 4)[:, [0, 3]].ravel(), times.reshape(-1, 4)[:, [1, 2]].ravel()
    assert figures(ours, 3 * peer, images=2)["ratio"]["median"] == pytest.approx(3.0)


def test_a_different_picture_does_not_count():
    black = np.zeros((1, 8, 8, 3), np.uint8)
    one_off, wrong = black.copy(), black + np.uint8(9)
    one_off[0, 0, 0, 0] = 1
    assert difference(black, wrong) == {"max": 9.0, "mean": 9.0}
    assert difference(black, black[:, :4]) == {"max": 255.0, "mean": 255.0}
    assert agreement({"safe": difference(black, one_off)}) == "equal"
    assert agreement({"safe": {"max": 9.0, "mean": 0.5}}) == "close"
    assert agreement({"safe": {"max": 0.0, "mean": 0.0}, "triggering": difference(black, wrong)}) == "different"


def test_curve_recovers_its_coefficients():
    pixels, images = map(np.ravel, np.meshgrid([64.0, 256.0, 576.0, 1024.0], [1.0, 2.0, 8.0]))
    curve = fit("unet", pixels, images, 2 + 0.03 * images * pixels + 5e-5 * images * pixels**2)
    assert curve.coefficients == pytest.approx({"constant": 2, "images*pixels": 0.03, "images*pixels^2": 5e-5}, rel=1e-6)
    assert curve.worst < 1e-9 and curve(256.0, 2.0) == pytest.approx(2 + 0.06 * 256 + 1e-4 * 256**2)
    with pytest.raises(ValueError, match="at least 3 points"):
        fit("guard", [1.0], [1.0], [1.0])
