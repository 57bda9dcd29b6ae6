"""A run of endurance notices what may not happen, and every answer is looked at."""

from __future__ import annotations

import copy
import random

import pytest

from benchmarks.endurance import BODIES, as_a1111, body, faults
from runtime.serving.routes.image_request import ImageRequest
from runtime.serving.routes.txt2img_request import Txt2ImgRequest

SOUND = {
    "statuses": {"OpenAI: 200": 90, "OpenAI: 400": 2, "malformed: 400": 4, "malformed: 403": 1, "cancelled: gone": 3},
    "verdicts": {"safe": 50, "redirected": 40, "refused": 2},
    "other bits": 0,
    "audit": 0,
}


def test_a_sound_run_has_no_faults():
    assert faults(SOUND) == []


@pytest.mark.parametrize(
    "part, value, fault",
    [
        ("statuses", {"malformed: 200": 1}, "malformed bodies were answered: malformed: 200"),
        ("statuses", {"A1111: 500": 1}, "the server failed: A1111: 500"),
        ("verdicts", {"unguarded": 1}, "verdicts: "),
        ("other bits", 1, "1 pictures were others"),
        ("audit", 2, "the audit's record does not hold"),
    ],
)
def test_what_may_not_happen_is_a_fault(part, value, fault):
    document = copy.deepcopy(SOUND)
    document[part] = value
    assert [found[: len(fault)] for found in faults(document)] == [fault]


def test_bodies_are_what_the_routes_read():
    for seed in range(50):
        asked = body(random.Random(seed), seed)
        assert ImageRequest(**asked).seed == seed and Txt2ImgRequest(**as_a1111(asked)).seed == seed
    assert len({*BODIES}) == len(BODIES)
