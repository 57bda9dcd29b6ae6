"""The load generator: requests come when they are due, however slow the server is."""

from __future__ import annotations

import asyncio
import json
from functools import partialmethod

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from benchmarks.serving import ROUTE, SHARES, Deployment, Mix, closed_loop, line, loads, open_loop, summary
from benchmarks.suite.serving_page import write

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
    load = summary(Deployment("", 1, 1), True, None, None, answers)
    assert slow.most == 3 and load.requests == REQUESTS
    assert load.outcomes == {"drawn": REQUESTS * 2 // 3, "429": REQUESTS // 3}
    assert load.throughput == pytest.approx(load.outcomes["drawn"] / answers.seconds, abs=1e-3)
    assert 0 < load.p50 <= load.p95 <= load.p99 and "| unguarded | capacity |" in line(load)


def test_the_same_requests_guarded_and_unguarded():
    guarded, unguarded = (MIX.bodies(40, flag) for flag in (False, True))
    assert [{**body, "unguarded": True} for body in guarded] == unguarded
    assert {body["size"] for body in guarded} == set(MIX.sizes)
    assert {body["num_inference_steps"] for body in guarded} == set(MIX.steps)


def test_with_the_guard_and_without_in_turns_at_the_same_rates(capsys):
    slow = Slow()

    async def measure():
        transport = httpx.ASGITransport(slow._app)
        with pytest.MonkeyPatch.context() as changed:
            changed.setattr(httpx.AsyncClient, "__init__", partialmethod(httpx.AsyncClient.__init__, transport=transport))
            return await loads(Deployment("http://slow", 1, 1), MIX, REQUESTS, clients=3)

    found = asyncio.run(measure())
    assert [load.unguarded for load in found] == [False, True, True, False] + [False, True] * len(SHARES)
    capacity = (found[0].throughput + found[3].throughput) / 2
    assert [load.rate for load in found[4:]] == [share * capacity for share in SHARES for _ in range(2)]
    assert capsys.readouterr().out.count("capacity") == 4


def test_page_and_plot(tmp_path):
    def load(unguarded, share, throughput, **changed):
        fixed = {"replicas": 0, "batch_size": 4, "requests": 9, "outcomes": {"drawn": 8, "429": 1}, "load_average": 1.0}
        rate = None if share is None else 2 * share
        times = {"p50": 0.25, "p95": 0.5, "p99": None}
        return {**fixed, **times, "unguarded": unguarded, "share": share, "rate": rate, "throughput": throughput, **changed}

    runs = [load(False, None, 1.9), load(True, None, 2.0), load(True, None, 2.0), load(False, None, 1.7), load(False, 0.5, 0.9)]
    document = {
        "machine": {"processor": "a processor", "cores": 2, "commit": "abc"},
        "engines": "onnxruntime, float32",
        "mix": {"sizes": ["64x64"], "steps": [4]},
        "loads": [*runs, load(False, None, 3.0, replicas=2), load(True, None, 3.0, replicas=2)],
    }
    (tmp_path / "serving-one.json").write_text(json.dumps(document))
    write(tmp_path)
    page = (tmp_path / "serving.md").read_text()
    assert (
        "the guard takes 10.0% of it (the two pairs of runs: 5.0%, 15.0%)" in page
        and "### Ray Serve, 2 replicas, batches of 4" in page
    )
    assert "| 0.50 (1.00/s) | yes | 0.90 | 0.25 | 0.50 | – | 1 × 429 | 1.00 |" in page
    assert (tmp_path / "serving.png").read_bytes().startswith(b"\x89PNG")
