"""The load generator: requests come when they are due, however slow the server is."""

from __future__ import annotations

import asyncio

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from benchmarks.serving import ROUTE, Mix, closed_loop, line, open_loop, summary
from tests.serving.conftest import serving

SECONDS, REQUESTS = 0.05, 12
MIX = Mix(("64x64", "96x64"), (4, 8))


@pytest.fixture
def slow():
    """A server that answers one request at a time, and every third with another status; the most that it had at once."""
    turn, asked, open_requests, most = asyncio.Lock(), [], [0], [0]

    async def answer(request):
        asked.append(await request.json())
        open_requests[0] += 1
        most[0] = max(most[0], open_requests[0])
        async with turn:
            await asyncio.sleep(SECONDS)
        open_requests[0] -= 1
        return JSONResponse({}, 429 if len(asked) % 3 == 0 else 200)

    with serving(Starlette(routes=[Route(ROUTE, answer, methods=["POST"])])) as (url, _):
        yield url, asked, most


def test_an_open_loop_waits_for_no_answer(slow):
    url, asked, most = slow
    bodies = MIX.bodies(REQUESTS, unguarded=False)
    found, seconds = asyncio.run(open_loop(url, bodies, rate=10 / SECONDS))
    assert most[0] > REQUESTS / 2 and seconds > REQUESTS * SECONDS
    assert max(took for _, took in found) > REQUESTS / 2 * SECONDS  # a request's time starts when it was due
    assert sorted(asked, key=lambda body: body["seed"]) == bodies


def test_a_closed_loop_has_as_many_requests_as_clients(slow):
    url, _, most = slow
    found, seconds = asyncio.run(closed_loop(url, MIX.bodies(REQUESTS, unguarded=True), clients=3))
    assert most[0] == 3 and len(found) == REQUESTS
    load = summary(1, True, None, None, found, seconds)
    assert load.outcomes[429] + load.outcomes[200] == REQUESTS and load.outcomes[429] > 0
    assert load.throughput == pytest.approx(load.outcomes[200] / seconds, abs=1e-3)
    assert 0 < load.p50 <= load.p95 <= load.p99 and "| unguarded | capacity |" in line(load)


def test_the_same_requests_guarded_and_unguarded():
    guarded, unguarded = (MIX.bodies(40, flag) for flag in (False, True))
    assert [{**body, "unguarded": True} for body in guarded] == unguarded
    assert {body["size"] for body in guarded} == set(MIX.sizes)
    assert {body["num_inference_steps"] for body in guarded} == set(MIX.steps)
