"""The load generator: requests come when they are due, however slow the server is."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from benchmarks.serving import ROUTE, Mix, closed_loop, line, open_loop, summary

SECONDS, REQUESTS = 0.05, 12
MIX = Mix(("64x64", "96x64"), (4, 8))


class Slow:
    """A server that answers one request at a time, and every third with 429; `most` is what it had at once."""

    def __init__(self) -> None:
        self.asked, self.open, self.most = [], 0, 0
        self._turn = asyncio.Lock()
        self._app = Starlette(routes=[Route(ROUTE, self.answer, methods=["POST"])])

    @property
    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(self._app), base_url="http://slow")

    async def answer(self, request):
        self.asked.append(await request.json())
        self.open += 1
        self.most = max(self.most, self.open)
        status = 200 if len(self.asked) % 3 else 429
        async with self._turn:
            await asyncio.sleep(SECONDS)
        self.open -= 1
        return JSONResponse({}, status)


def test_an_open_loop_waits_for_no_answer():
    slow, bodies = Slow(), MIX.bodies(REQUESTS, unguarded=False)
    answers = asyncio.run(open_loop(slow.client, bodies, rate=10 / SECONDS))
    assert slow.most > REQUESTS / 2 and answers.seconds > REQUESTS * SECONDS
    assert max(took for _, took in answers.found) > REQUESTS / 2 * SECONDS  # a request's time starts when it was due
    assert sorted(slow.asked, key=lambda body: body["seed"]) == bodies


def test_a_closed_loop_has_as_many_requests_as_clients():
    slow = Slow()
    answers = asyncio.run(closed_loop(slow.client, MIX.bodies(REQUESTS, unguarded=True), clients=3))
    load = summary(1, True, None, None, answers)
    assert slow.most == 3 and load.requests == REQUESTS
    assert load.outcomes == {"drawn": REQUESTS * 2 // 3, "429": REQUESTS // 3}
    assert load.throughput == pytest.approx(load.outcomes["drawn"] / answers.seconds, abs=1e-3)
    assert 0 < load.p50 <= load.p95 <= load.p99 and "| unguarded | capacity |" in line(load)


def test_the_same_requests_guarded_and_unguarded():
    guarded, unguarded = (MIX.bodies(40, flag) for flag in (False, True))
    assert [{**body, "unguarded": True} for body in guarded] == unguarded
    assert {body["size"] for body in guarded} == set(MIX.sizes)
    assert {body["num_inference_steps"] for body in guarded} == set(MIX.steps)
