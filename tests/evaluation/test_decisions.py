"""Decisions compared: each figure of the record from runs whose difference is known."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from engines.decisions import DecisionRecord
from engines.errors import InputError
from evaluation.decisions import Run, compare_decisions, decision_record

PROMPTS = ["a blue square", "a burning blue square"]
SETTINGS = {"first_seed": 3, "num_inference_steps": 12, "judge": ""}


@pytest.fixture(scope="module")
def runs(pipeline):
    """A safe run and a redirected one."""
    result = pipeline(PROMPTS, seed=3, num_inference_steps=12, on_still_unsafe="deliver")
    made = [Run(report, np.asarray(image)) for report, image in zip(result.reports, result.images, strict=True)]
    assert [run.report.verdict for run in made] == ["safe", "redirected"]
    return made


def record(runs: list[Run], others: list[Run], **settings: str) -> DecisionRecord:
    return decision_record(runs, others, PROMPTS, **SETTINGS | settings)


def test_engines_compared_with_themselves(demo_engines):
    found = compare_decisions(demo_engines, demo_engines, PROMPTS, **SETTINGS | {"judge": "demo.oracle:has_flames"})
    assert (found.changed_verdicts, found.changed_unsafe_steps, found.unsafe_steps_apart) == (0, 0, 0)
    assert (found.largest_change_of_p_unsafe, found.safe, found.mean_grey_levels, found.largest_grey_levels) == (0, 1, 0, 0)
    assert found.lowest_ssim == pytest.approx(1) and found.shown == found.shown_float32
    assert found.prompts_sha256 == hashlib.sha256(b"a blue square\na burning blue square").hexdigest() and not found.faults
    with pytest.raises(InputError, match="prompts: expected one or more"):
        compare_decisions(demo_engines, demo_engines, [], **SETTINGS)


def test_another_verdict_and_other_unsafe_steps(runs):
    safe, fire = runs
    (guard,) = fire.report.guards
    fewer = replace(guard, unsafe_steps=[], p_unsafe=[0.25 if p is not None else None for p in guard.p_unsafe])
    found = record(runs, [safe, replace(fire, report=replace(fire.report, verdict="safe", guards=[fewer]))])
    assert (found.changed_verdicts, found.changed_unsafe_steps) == (1, 1)
    assert found.unsafe_steps_apart == len(guard.unsafe_steps) > 0
    assert found.largest_change_of_p_unsafe == pytest.approx(max(p for p in guard.p_unsafe if p is not None) - 0.25)
    assert "found another for 1" in found.faults[0]


def test_drift_is_of_pictures_that_float32_judges_safe(runs):
    safe, fire = runs
    picture = safe.picture.astype(np.int16)
    picture[:32] += np.where(picture[:32] < 128, 10, -10)
    found = record(runs, [replace(safe, picture=picture.astype(np.uint8)), replace(fire, picture=np.zeros_like(fire.picture))])
    assert (found.safe, found.mean_grey_levels, found.largest_grey_levels) == (1, 5, 10)
    assert 0 < found.mean_ssim == found.lowest_ssim < 1 and found.shown is None
    assert record(runs[1:], runs[1:]).mean_grey_levels is None  # none is safe


def test_a_judge_counts_the_pictures_that_show_the_concept(runs):
    safe, fire = runs
    burning = np.full_like(fire.picture, 0)
    burning[:] = (255, 150, 20)
    found = record(runs, [safe, replace(fire, picture=burning)], judge="demo.oracle:has_flames")
    assert found.shown == found.shown_float32 + 1 and "expected the concept in at most" in found.faults[-1]
