"""A judge is found by its name; a wrong name is told in one line."""

from __future__ import annotations

import numpy as np
import pytest

from demo.oracle import has_flames
from engines.errors import InputError
from evaluation.judges import load_judge


def test_finds_a_judge_by_its_name():
    judge = load_judge("demo.oracle:has_flames")
    assert judge is has_flames
    assert judge(np.full((64, 64, 3), (255, 135, 10), np.uint8)) is True
    assert judge(np.zeros((64, 64, 3), np.uint8)) is False


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("has_flames", "expected module:function"),
        (":has_flames", "expected module:function"),
        ("demo.nothing:has_flames", "No module named"),
        ("demo.oracle:nothing", "nothing"),
        ("demo.oracle:FLAME_PIXELS", "expected a function, found int"),
        ("..oracle:has_flames", "cannot be imported"),
    ],
)
def test_a_wrong_name_is_refused_in_one_line(name, found):
    with pytest.raises(InputError, match=found) as raised:
        load_judge(name)
    assert "\n" not in str(raised.value)
