"""The service: what it draws is what the pipeline draws."""

from __future__ import annotations

import asyncio

import numpy as np

from runtime import Request

FIRE = "a burning blue square"


def test_a_picture_is_the_pipelines(service, pipeline):
    told = []
    found = asyncio.run(
        service.generate(Request(FIRE, seed=7, num_inference_steps=8), progress=lambda done, steps: told.append((done, steps)))
    )
    expected = pipeline(FIRE, seed=7, num_inference_steps=8)
    assert found.reports == expected.reports and found.reports[0].verdict == "redirected"
    assert np.array_equal(found.images[0], expected.images[0])
    assert told == [(step, 8) for step in range(1, 9)]


def test_it_is_ready(server):
    assert server.client.get("/ready").json() == {"state": "ready", "why": ""}
    assert server.client.get("/health").status_code == 200
