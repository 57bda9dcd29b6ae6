"""Engines that hang: the server stops drawing, answers everybody, keeps what comes late, and can still end."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time

import pytest

from runtime import Request
from runtime.serving.errors import NotReadyError
from runtime.serving.limits import Limits
from runtime.serving.watchdog import LOOK_SECONDS, GivenUp, Watchdog
from tests.serving.conftest import until
from tests.serving.engines import Held, draw
from tests.serving.test_metrics import read

PLAIN = "a small blue circle on a white background"
WHY = "the engines did not finish a step within 1.5 s"
LIMITS = Limits(hang_seconds=1.5)
KEYS = "alice 0123456789abcdef\nadmin fedcba9876543210\n"
ADMIN = {"Authorization": "Bearer fedcba9876543210"}


@pytest.fixture
def watchdog():
    started = Watchdog(2 * LOOK_SECONDS)
    started.start()
    yield started
    started.end()


def test_what_shows_no_life_is_given_up_and_what_does_is_not(watchdog):
    looks = threading.Semaphore(0)
    with watchdog.watching(looks.release):
        for _ in range(4):
            time.sleep(LOOK_SECONDS)
            watchdog.beat()
    assert not looks.acquire(blocking=False) and not watchdog.hangs
    with pytest.raises(GivenUp), watchdog.watching(looks.release):
        assert looks.acquire(timeout=30) and looks.acquire(timeout=30)  # at every look
        assert watchdog.hangs
        with pytest.raises(GivenUp):
            watchdog.beat()
        raise ValueError("dropped")
    assert not watchdog.hangs


def test_nothing_is_given_up_where_nothing_is_done(watchdog):
    time.sleep(4 * LOOK_SECONDS)
    with watchdog.watching(pytest.fail):
        assert not watchdog.hangs


def test_engines_that_hang_turn_it_off_and_everybody_is_answered(serve, tmp_path, caplog):
    (tmp_path / "keys").write_text(KEYS)
    held = Held()
    served = serve(LIMITS, held, keys=tmp_path / "keys")
    before = read(served, ADMIN)
    held.go.clear()

    async def ask():
        requests = [Request(PLAIN, num_inference_steps=steps, seed=0) for steps in (4, 4, 6)]  # one is drawn, two wait
        return await asyncio.gather(*(served.service.generate(request) for request in requests), return_exceptions=True)

    with caplog.at_level(logging.INFO, "runtime.serving"):
        errors = asyncio.run(ask())
    assert [(type(error), str(error)) for error in errors] == [(NotReadyError, f"server: {WHY}")] * 3
    ready = served.client.get("/ready")
    assert (ready.status_code, ready.json()) == (503, {"state": "failed", "why": WHY})
    assert [record.values["why"] for record in caplog.records if record.getMessage() == "engine failure"] == [WHY]
    now = read(served, ADMIN)
    assert now["saferedir_state", ("failed",)] == now["saferedir_engine_hangs_total", ()] == 1
    again = served.client.post("/ready", headers=ADMIN)
    assert again.status_code == 503 and "a call in it has not returned; restart the server" in again.text

    held.go.set()  # the call returns after all
    until(lambda: not served.service.hangs)
    assert served.client.post("/draw", json={"prompt": PLAIN}, headers=ADMIN).status_code == 503
    assert served.client.get("/ready").json()["state"] == "failed"
    assert {name: read(served, ADMIN)[name] for name in before if name[0] == "saferedir_images_total"} == {
        name: value for name, value in before.items() if name[0] == "saferedir_images_total"
    }
    assert served.client.post("/ready", headers=ADMIN).status_code == 202
    until(lambda: served.service.state == "ready")
    assert draw(served.service, PLAIN).reports[0].verdict == "safe"


def test_each_api_has_its_own_error_for_it(serve):
    held = Held()
    served = serve(LIMITS, held)
    held.go.clear()
    hanging = served.client.post("/sdapi/v1/txt2img", json={"prompt": PLAIN})
    later = served.client.post("/v1/images/generations", json={"prompt": PLAIN})
    held.go.set()
    assert hanging.status_code == later.status_code == 503 and WHY in hanging.text and WHY in later.text
    assert hanging.json()["error"] == "NotReadyError" and later.json()["error"]["code"] == "not_ready"


def test_a_stream_ends_with_the_error(serve):
    held = Held()
    served = serve(LIMITS, held)
    held.on_call = lambda: held.calls == first + 3 and held.go.clear()
    first = held.calls
    asked = {"prompt": PLAIN, "num_inference_steps": 4, "stream": True}
    with served.client.stream("POST", "/v1/images/generations", json=asked) as answer:
        events = "".join(answer.iter_text()).strip().split("\n\n")
    held.go.set()
    assert [event.split("\n")[0] for event in events] == ["event: image_generation.progress"] * 2 + ["event: error"]
    error = json.loads(events[-1].split("data: ")[1])["error"]
    assert (error["code"], error["message"]) == ("not_ready", f"server: {WHY}")


def test_what_comes_to_wait_while_they_hang_is_refused(serve, monkeypatch):
    """As a request that has passed the look at whether the server is ready, just before it is not."""
    held = Held()
    service = serve(LIMITS, held).service
    held.go.clear()
    with pytest.raises(NotReadyError):
        draw(service, PLAIN)
    monkeypatch.setattr(service._readiness, "require", lambda: None)
    with pytest.raises(NotReadyError, match=WHY):
        draw(service, PLAIN)
    held.go.set()


def test_canaries_that_hang_turn_it_off(serve):
    held = Held("guard")
    served = serve(Limits(hang_seconds=1.5, canary_images=1), held)
    passed = served.service.metrics.canaries.labels("pass")._value
    draw(served.service, PLAIN)
    until(lambda: passed.get() == 2)  # the start's and those after the picture
    held.on_call = held.go.clear
    served.service._readiness.drew(1)
    until(lambda: served.service.state == "failed")
    assert served.service.why == WHY
    held.on_call = lambda: None
    held.go.set()
    until(lambda: not served.service.hangs)
    assert passed.get() == 2 and served.service.state == "failed"


def test_a_start_that_hangs_has_failed(serve):
    held = Held()
    held.go.clear()
    served = serve(LIMITS, held)
    assert served.client.get("/ready").json() == {"state": "failed", "why": WHY}
    held.go.set()
    until(lambda: not served.service.hangs)
    assert served.service.state == "failed"


def test_a_long_run_of_short_steps_is_none_that_hangs(serve):
    held = Held()
    served = serve(LIMITS, held)
    held.on_call = lambda: time.sleep(0.3)
    assert draw(served.service, PLAIN, num_inference_steps=8).reports[0].verdict == "safe"
    assert served.service.state == "ready"
