"""A run of endurance notices what may not happen, and every answer is looked at."""

from __future__ import annotations

import asyncio
import base64
import copy
import json
import os
import random

import httpx
import pytest

from benchmarks import endurance
from benchmarks.endurance import A1111, BODIES, ROUTE, SIZES, Record, again, as_a1111, body, faults, load
from benchmarks.suite.server import Server
from runtime.picture_files import encode
from runtime.serving.limits import Limits
from runtime.serving.routes.image_request import ImageRequest
from runtime.serving.routes.txt2img_request import Txt2ImgRequest
from runtime.serving.service import Service
from runtime.serving.settings import ServerSettings
from tests.runtime.reports import drawn
from tests.serving.conftest import serving

SOUND = {
    "statuses": {"OpenAI: 200": 90, "OpenAI: 400": 2, "malformed: 400": 4, "malformed: 403": 1, "cancelled: gone": 3},
    "verdicts": {"safe": 50, "redirected": 40, "refused": 2},
    "misreported": 0,
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
        ("misreported", 2, "2 pictures do not carry the report of their answer"),
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


def test_every_answer_of_both_apis_is_looked_at(demo_engines, monkeypatch):
    monkeypatch.setattr(endurance, "CHECKED", 3)
    monkeypatch.setattr(endurance, "STEPS", (8,))
    monkeypatch.setattr(endurance, "SAMPLERS", ("ddim",))
    record = Record()
    with serving(Service(ServerSettings(engine_dir=demo_engines, limits=Limits(sizes=[*SIZES])))) as served:
        server = Server(served.url, os.getpid())
        asyncio.run(load(server, 16, 3, record))
        repeated = asyncio.run(again(server, record))
    paths = [path for path, _, _ in record.answers]
    assert {*paths} == {A1111, ROUTE} and record.misreported == 0
    shown = sum(digest is not None for _, _, digests in record.answers for digest in digests)
    withheld = sum(record.verdicts[verdict] for verdict in ("refused", "still_unsafe"))
    assert sum(record.verdicts.values()) - withheld == shown >= len(paths)
    assert repeated == {"asked again": -(-len(paths) // 3), "other bits": 0}


@pytest.mark.parametrize("path", [ROUTE, A1111])
@pytest.mark.parametrize("form", ["png", "jpeg"])
def test_a_picture_with_another_report_is_noticed(path, form):
    image, report = drawn()
    other = drawn(seed=1)[1]
    for told, misreported in ((report, 0), (other, 1)):
        record = Record()
        endurance._note(path, {}, _answer(path, encode(image, report, form), json.loads(told.to_json())), record)
        assert record.misreported == misreported and record.verdicts == {"redirected": 1}
        assert record.answers == [(path, {}, [told.image_sha256])]


def _answer(path: str, file: bytes, report: dict) -> httpx.Response:
    encoded = base64.b64encode(file).decode()
    if path == ROUTE:
        return httpx.Response(200, json={"data": [{"b64_json": encoded, "report": report}]})
    return httpx.Response(200, json={"images": [encoded], "info": json.dumps({"saferedir": {"reports": [report]}})})
