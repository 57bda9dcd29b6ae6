"""The service: what it draws is what the pipeline draws; its queue, its deadline, and who leaves early."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from runtime import Request
from runtime.serving.errors import DeadlineError, NotReadyError, QueueFullError
from runtime.serving.limits import Limits
from tests.serving.conftest import until
from tests.serving.engines import Held, draw

FIRE, PLAIN = "a burning blue square", "a small blue circle on a white background"


def same(found, expected) -> bool:
    """Whether all bits of pictures and reports are equal."""
    pictures = zip(found.images, expected.images, strict=True)
    return found.reports == expected.reports and all(np.array_equal(image, other) for image, other in pictures)


def test_a_picture_is_the_pipelines(service, pipeline):
    told = []
    request = Request(FIRE, seed=7, num_inference_steps=8)
    found = asyncio.run(service.generate(request, progress=lambda done, steps: told.append((done, steps))))
    assert same(found, pipeline(FIRE, seed=7, num_inference_steps=8)) and found.reports[0].verdict == "redirected"
    assert told == [(step, 8) for step in range(1, 9)]


def test_each_image_of_a_request_is_a_run_of_its_own(service, pipeline):
    told = []
    request = Request([FIRE, PLAIN], num_images_per_prompt=2, num_inference_steps=[4, 5], guidance_scale=[7.5, 1.0], seed=3)
    found = asyncio.run(service.generate(request, progress=lambda *done: told.append(done)))
    alone = [{"num_inference_steps": 4, "guidance_scale": 7.5}] * 2 + [{"num_inference_steps": 5, "guidance_scale": 1.0}] * 2
    for image, (prompt, options) in enumerate(zip([FIRE, FIRE, PLAIN, PLAIN], alone, strict=True)):
        expected = pipeline(prompt, seed=3 + image, **options)
        assert np.array_equal(found.images[image], expected.images[0]) and found.reports[image].guards == expected.reports[0].guards
    assert told == [(rows, 18) for rows in range(1, 19)]


def test_a_full_queue_refuses_whole_requests(serve):
    held = Held()
    served = serve(Limits(queue_length=2, most_images=2), wrap=held)
    draw(served.service, PLAIN)
    held.go.clear()

    async def ask():
        tasks = [asyncio.create_task(served.service.generate(Request(PLAIN, num_inference_steps=4, seed=0)))]
        calls = held.calls
        while held.calls == calls:
            await asyncio.sleep(0.01)
        tasks.append(asyncio.create_task(served.service.generate(Request(PLAIN, num_inference_steps=4, seed=1))))
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError, match="at most 2 waiting images, found 1 and 2 more") as caught:
            await served.service.generate(Request([PLAIN, FIRE], num_inference_steps=4))
        answer = await asyncio.to_thread(served.client.post, "/draw", json={"prompt": [PLAIN, FIRE]})
        held.go.set()
        return caught.value, answer, await asyncio.gather(*tasks)

    error, answer, results = asyncio.run(ask())
    assert error.retry_after == 1 and answer.status_code == 429 and answer.headers["retry-after"] == "1"
    assert answer.json()["error"]["code"] == "queue_full"
    assert [result.reports[0].seed for result in results] == [0, 1]


def test_retry_after_is_what_the_waiting_images_will_take(service):
    queue = service._queue
    assert queue.retry_after(()) == 0
    kind = type("Kind", (), {"rows": 20})
    assert queue.retry_after([type("Job", (), {"kind": kind})] * 3) == pytest.approx(60 * service._worker.seconds_per_row)


def test_a_cancelled_request_leaves_the_queue_and_the_engines(serve):
    held = Held()
    served = serve(wrap=held)

    async def ask():
        held.go.clear()
        calls = held.calls
        drawn = asyncio.create_task(served.service.generate(Request(PLAIN, num_inference_steps=50, seed=0)))
        while held.calls == calls:
            await asyncio.sleep(0.01)
        waiting = asyncio.create_task(served.service.generate(Request(FIRE, num_inference_steps=50, seed=1)))
        await asyncio.sleep(0.05)
        assert len(served.service._queue) == 1
        waiting.cancel()
        await asyncio.sleep(0.05)
        assert len(served.service._queue) == 0
        drawn.cancel()
        await asyncio.gather(drawn, waiting, return_exceptions=True)
        held.go.set()
        return calls

    calls = asyncio.run(ask())
    assert draw(served.service, PLAIN).reports[0].verdict == "safe"
    assert held.calls - calls == 1 + 4  # the step in progress, and the next request's: the rest of 50 was given up


def test_a_request_ends_at_its_deadline(serve):
    held = Held()
    served = serve(Limits(deadline_seconds=1.0), wrap=held)
    held.go.clear()
    answer = served.client.post("/draw", json={"prompt": PLAIN, "num_inference_steps": 4})
    assert answer.status_code == 504 and answer.json()["error"]["code"] == "deadline_exceeded"
    with pytest.raises(DeadlineError, match=r"within 1.0 s"):
        draw(served.service, FIRE)
    assert len(served.service._queue) == 0
    held.go.set()
    assert len(draw(served.service, PLAIN, num_inference_steps=1).reports) == 1


def test_a_stopping_service_draws_what_it_accepted_and_nothing_more(serve):
    held = Held()
    service = serve(wrap=held).service

    async def ask():
        held.go.clear()
        tasks = [asyncio.create_task(service.generate(Request(PLAIN, num_inference_steps=4, seed=seed))) for seed in range(3)]
        await asyncio.sleep(0.05)
        stopping = asyncio.create_task(service.stop())
        await asyncio.sleep(0.05)
        with pytest.raises(NotReadyError, match="draining"):
            await service.generate(Request(PLAIN))
        held.go.set()
        results = await asyncio.gather(*tasks)
        await stopping
        return results

    assert [result.reports[0].seed for result in asyncio.run(ask())] == [0, 1, 2]
    until(lambda: not service._worker.is_alive())
