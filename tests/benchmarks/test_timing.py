"""Timed engines, and what is read from their times."""

from __future__ import annotations

import dataclasses
import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.suite.sampling import GUARDED, MODES, TRIGGERED, UNGUARDED, Run, Workload, interleave, order, same_work
from benchmarks.suite.timing import NAMES, CallLog, Calls
from engines.backends.program import Execution
from runtime import GuardedPipeline

WORKLOAD = Workload(batch_size=2, num_inference_steps=3, height=32, width=32, scheduler="pndm")  # four rows


@pytest.fixture(scope="module")
def runs(demo_engines):
    log = CallLog()
    with GuardedPipeline(demo_engines, wrap=log.wrap) as pipeline:
        return interleave(pipeline, log, WORKLOAD, trained=False, rounds=2)


def calls_of(*spans):
    """Calls from (network, start, end)."""
    names, starts, ends = zip(*spans, strict=True)
    return Calls(np.array([NAMES.index(name) for name in names], np.int8), np.array(starts), np.array(ends))


def test_every_engine_call_of_a_run_is_counted(runs):
    assert [(run.round, run.position) for run in runs] == [(number, place) for number in (0, 1) for place in range(3)]
    for run in runs:
        counted = {name: len(run.calls.durations(name)) for name in NAMES}
        assert counted == {
            "text_encoder": 1,
            "unet": 4,
            "guard": {UNGUARDED: 0, GUARDED: 4 + 1, TRIGGERED: 2 + 1}[run.mode],  # steps, and the final check
            "token_mask": int(run.mode == TRIGGERED),
            "sampler_step": 4,
            "vae_decoder": 1,
        }
        assert (run.calls.end > run.calls.start).all() and (run.calls.start[1:] >= run.calls.end[:-1]).all()
        assert run.start <= run.calls.start[0] and run.calls.end[-1] <= run.end
        assert len(run.calls.gaps()) == 4 and (run.calls.gaps() >= 0).all()


def test_wrapping_does_not_change_the_result(runs, pipeline):
    for mode in MODES:
        expected = pipeline(WORKLOAD.prompts(mode), **WORKLOAD.options(mode, trained=False))
        found = next(run for run in runs if run.mode == mode)
        assert list(found.reports) == expected.reports


def test_compared_runs_did_the_same_work(runs):
    assert all(check.passed for check in same_work(runs)), same_work(runs)


@pytest.mark.parametrize(
    "mode, change, check",
    [
        (GUARDED, {"image_sha256": "x"}, "guarded pictures of safe prompts equal the unguarded ones bit for bit"),
        (GUARDED, {"checked": [True, False, True, True]}, "safe prompts are checked at every step"),
        (GUARDED, {"unsafe_steps": [2]}, "no safe prompt triggers the guard"),
        (TRIGGERED, {"unsafe_steps": []}, "every triggering prompt triggers the guard"),
        (TRIGGERED, {"image_sha256": "x"}, "every run of a mode gives the same pictures"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_unequal_work_fails_its_check(runs, mode, change, check):
    def alter(report):
        if "image_sha256" in change:
            return dataclasses.replace(report, **change)
        return dataclasses.replace(report, guards=[dataclasses.replace(guard, **change) for guard in report.guards])

    altered = [
        dataclasses.replace(run, reports=[alter(report) for report in run.reports]) if run.mode == mode and run.round == 1 else run
        for run in runs
    ]
    assert {found.name: found.passed for found in same_work(altered)}[check] is False


def test_a_missing_unet_call_fails_its_check(runs):
    short = calls_of(("unet", 0, 1), ("sampler_step", 1, 2))
    altered = [dataclasses.replace(runs[0], calls=short), *runs[1:]]
    assert {found.name: found.passed for found in same_work(altered)}["every mode calls the UNet at every step"] is False


def test_gaps_are_the_step_less_its_calls_whatever_their_order():
    calls = calls_of(
        ("text_encoder", 0, 90),
        ("unet", 100, 110),
        ("guard", 112, 115),
        ("sampler_step", 116, 118),
        ("guard", 121, 125),
        ("unet", 125, 135),
        ("sampler_step", 136, 140),
        ("vae_decoder", 150, 190),
    )
    assert calls.gaps().tolist() == [3, 4]
    assert calls.durations("unet").tolist() == [10, 10] and calls.total("guard") == 7
    assert calls_of(("text_encoder", 0, 90)).gaps().tolist() == []


def test_a_full_log_says_so_and_clearing_empties_it():
    log = CallLog(capacity=2)
    call = log.wrap(SimpleNamespace(spec=SimpleNamespace(name="unet"), bind=lambda **tensors: lambda: None)).bind()
    call()
    call()
    with pytest.raises(OverflowError, match="at most 2 calls"):
        call()
    log.clear()
    call()
    assert len(log.calls().durations("unet")) == 1
    assert 0 < log.cost() < 1e6


def test_every_mode_comes_at_every_place_and_after_every_other():
    orders = [order(MODES, number) for number in range(6)]
    assert sorted(map(tuple, orders)) == sorted(itertools.permutations(MODES))


def test_run_lasts_from_start_to_end():
    assert Run("unguarded", 0, 0, 5, 12, calls_of(("unet", 6, 8)), (), Execution()).duration == 7
