"""What --vary says becomes conditions."""

from __future__ import annotations

import pytest

from engines.errors import InputError
from evaluation.conditions import OPTIONS, Condition, conditions
from runtime import GuardedPipeline, Policy


def test_each_option_has_a_table_of_its_own():
    base, checks, steps = conditions([["check", "before", "beside"], ["num_inference_steps", "4", "10"]])
    assert base == [Condition()] and str(base[0]) == "as given"
    assert [str(condition) for condition in checks] == ["check=before", "check=beside"]
    assert [condition.changes for condition in steps] == [(("num_inference_steps", 4),), (("num_inference_steps", 10),)]
    assert steps[0].options({"num_inference_steps": 50, "eta": 0.0}) == {"num_inference_steps": 4, "eta": 0.0}


def test_crossed_options_have_one_table():
    base, crossed = conditions([["check", "before", "beside"], ["threshold", "0.4", "0.6"]], cross=True)
    assert base == [Condition()]
    assert [str(condition) for condition in crossed] == [
        "check=before, threshold=0.4",
        "check=before, threshold=0.6",
        "check=beside, threshold=0.4",
        "check=beside, threshold=0.6",
    ]
    assert conditions([], cross=True) == conditions([]) == [[Condition()]]


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        ([["prompt", "x"]], "expected one of scheduler, .*, found 'prompt'"),
        ([["num_inference_steps", "many"]], "--vary num_inference_steps: expected int, found 'many'"),
        ([["check"]], "an option and one value or more"),
        ([["check", "before"], ["check", "beside"]], "each option once"),
    ],
)
def test_other_variations_are_refused(vary, message):
    with pytest.raises(InputError, match=message):
        conditions(vary)


def test_every_option_is_the_pipelines_or_the_policys():
    call = GuardedPipeline.__call__.__annotations__
    assert {name for name in OPTIONS if name not in call} == set(Policy.__dataclass_fields__)
