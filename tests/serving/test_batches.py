"""A batch is shared by images of one kind, and no image's bits depend on what else is in it."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engines.policy import Policy
from runtime import Request
from runtime.serving.limits import Limits
from runtime.serving.service import Service
from runtime.serving.settings import ServerSettings
from tests.serving.conftest import serving
from tests.serving.engines import Held

BATCH_SIZE, STEPS = 3, 3
FIRE, PLAIN = "a burning blue square", "a small blue circle on a white background"
# Images that may share a batch, although they differ in all that may differ.
IMAGES = [
    {"prompt": FIRE, "seed": 1},
    {"prompt": PLAIN, "seed": 2, "guidance_scale": 3.0, "scheduler": "euler"},
    {"prompt": FIRE, "seed": 3, "on_unsafe": "refuse", "negative_prompt": "a star"},
    {"prompt": FIRE, "seed": 4, "policy": {"fire": Policy(threshold=0.0, shift="conditional")}, "scheduler": "tcd"},
    {"prompt": PLAIN, "seed": 5, "clip_skip": 1, "policy": Policy(shift="conditional")},
    # … and some that may not share theirs.
    {"prompt": PLAIN, "seed": 6, "num_inference_steps": 4},
    {"prompt": FIRE, "seed": 7, "guidance_scale": 1.0},
    {"prompt": FIRE, "seed": 8, "scheduler": "euler_ancestral"},
    {"prompt": PLAIN, "seed": 9, "scheduler": "DPM++ 2M Karras"},
]


@pytest.fixture(scope="module")
def held() -> Held:
    return Held()


@pytest.fixture(scope="module")
def batching(demo_engines, held):
    limits = Limits(batch_size=BATCH_SIZE, queue_length=100)
    with serving(Service(ServerSettings(engine_dir=demo_engines, limits=limits), held)) as served:
        assert served.service.batch_size == BATCH_SIZE
        yield served.service


@pytest.fixture(scope="module")
def alone(pipeline):
    """What each image is in a batch with copies of itself."""
    known = {}

    def draw(image: int):
        if image not in known:
            options = {"num_inference_steps": STEPS, **IMAGES[image]}
            result = pipeline([options.pop("prompt")] * BATCH_SIZE, **{**options, "seed": [options["seed"]] * BATCH_SIZE})
            known[image] = (result.images[0], result.reports[0])
        return known[image]

    return draw


def draw_at_once(service, held, images: list[int]):
    """All of them wait before the first is drawn, for another image is on its way."""

    async def ask():
        held.go.clear()
        calls = held.calls
        first = asyncio.create_task(service.generate(Request("a star", num_inference_steps=1)))
        while held.calls == calls:
            await asyncio.sleep(0.001)
        requests = [Request(**{"num_inference_steps": STEPS, **IMAGES[image]}) for image in images]
        tasks = [asyncio.create_task(service.generate(request)) for request in requests]
        while len(service._queue) < len(images):
            await asyncio.sleep(0.001)
        held.go.set()
        await first
        return await asyncio.gather(*tasks)

    return asyncio.run(ask())


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(range(len(IMAGES))), min_size=1, max_size=5))
def test_no_bit_of_an_image_depends_on_the_others(batching, held, alone, images):
    for image, found in zip(images, draw_at_once(batching, held, images), strict=True):
        picture, report = alone(image)
        assert found.reports[0] == report
        assert (found.images[0] is None) == (picture is None)
        assert picture is None or np.array_equal(found.images[0], picture)


def calls_of(service, held, images: list[int]) -> int:
    before = held.calls
    draw_at_once(service, held, images)
    return held.calls - before - 1  # without that of the image that was on its way


def test_images_of_a_kind_share_batches_and_others_do_not(batching, held):
    assert calls_of(batching, held, [0]) == STEPS
    assert calls_of(batching, held, [0, 1, 2, 3, 4]) == 2 * STEPS
    assert calls_of(batching, held, [0, 5]) == STEPS + STEPS + 1
    assert calls_of(batching, held, [0, 6, 7, 8]) == 4 * STEPS


def test_engines_that_mix_their_images_get_batches_of_one(serve):
    class Mixing:
        """Gives each image a little of the others, as an engine might whose sums run over the batch."""

        def __init__(self, engine):
            self.spec, self._engine = engine.spec, engine

        def bind(self, **tensors):
            run, output = self._engine.bind(**tensors), tensors["noise_pred"]

            def call():
                run()
                np.add(output, 1e-3 * output.mean(axis=0), out=output)

            return call

    served = serve(Limits(batch_size=2), wrap=lambda engine: Mixing(engine) if engine.spec.name == "unet" else engine)
    assert served.service.state == "ready" and served.service.batch_size == 1
    assert "saferedir_batch_size 1.0" in served.client.get("/metrics").text
