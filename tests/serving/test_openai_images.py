"""OpenAI's images API, through OpenAI's own client."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from runtime.picture_files import read_report
from runtime.report import ImageReport
from runtime.serving.limits import Limits
from runtime.serving.policy_bounds import PolicyBounds
from tests.serving.conftest import until
from tests.serving.engines import Held

FIRE, PLAIN = "a burning blue square", "a small blue circle on a white background"
FEW = {"num_inference_steps": 4}


@pytest.fixture
def client(server):
    return client_of(server)


def client_of(served, key: str = "no key") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key=key, max_retries=0)


def pixels(entry) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(entry.b64_json))))


def plain(report: ImageReport) -> dict:
    return json.loads(report.to_json())


def test_pictures_are_the_pipelines_and_carry_their_reports(client, pipeline):
    answer = client.images.generate(prompt=FIRE, n=2, size="64x64", extra_body={**FEW, "seed": 7, "scheduler": "Euler a"})
    expected = [pipeline(FIRE, num_inference_steps=4, seed=seed, scheduler="Euler a", height=64, width=64) for seed in (7, 8)]
    assert len(answer.data) == 2 and answer.size == "64x64" and answer.output_format == "png" and answer.created > 1.7e9
    for entry, result in zip(answer.data, expected, strict=True):
        assert entry.report == plain(result.reports[0]) and entry.report["verdict"] == "redirected"
        np.testing.assert_array_equal(pixels(entry), np.asarray(result.images[0]))
        found = read_report(base64.b64decode(entry.b64_json))
        assert found.problem is None and found.report == entry.report
    ours = {"manifest_digest": expected[0].reports[0].manifest_digest, "guarded": True, "ignored": []}
    assert answer.saferedir == ours


@pytest.mark.parametrize("form, quality", [("jpeg", 60), ("jpeg", None), ("webp", 60), ("webp", None)])
def test_formats(client, form, quality):
    more = {} if quality is None else {"output_compression": quality}
    answer = client.images.generate(prompt=PLAIN, output_format=form, extra_body={**FEW, "seed": 1}, **more)
    content = base64.b64decode(answer.data[0].b64_json)
    assert answer.output_format == form and Image.open(io.BytesIO(content)).format.lower() == form
    found = read_report(content)
    assert found.problem is None and found.report == answer.data[0].report


def test_every_option_reaches_the_pipeline(client, pipeline):
    options = {
        "negative_prompt": "a star",
        "num_inference_steps": 4,
        "guidance_scale": 3.5,
        "seed": 11,
        "scheduler": "ddim",
        "schedule_type": "sgm_uniform",
        "eta": 0.5,
        "clip_skip": 1,
        "check": "before",
        "on_unsafe": "redirect",
        "on_still_unsafe": "withhold",
    }
    answer = client.images.generate(prompt=PLAIN, extra_body=options)
    expected = pipeline(PLAIN, num_images_per_prompt=1, policy=None, **options).reports[0]
    assert answer.data[0].report == {**plain(expected), "defaults": answer.data[0].report["defaults"]}


def test_what_changes_nothing_is_listed(client):
    answer = client.images.generate(
        prompt=PLAIN, quality="hd", style="vivid", moderation="low", user="u1", background="opaque", model="demo", extra_body=FEW
    )
    assert answer.saferedir["ignored"] == ["quality", "style", "moderation", "user"]
    asked = client.images.generate(prompt=FIRE, moderation="low", extra_body={**FEW, "seed": 7})
    usual = client.images.generate(prompt=FIRE, moderation="auto", quality="auto", size="auto", extra_body={**FEW, "seed": 7})
    assert usual.saferedir["ignored"] == []
    assert asked.data[0].report == usual.data[0].report  # low moderation weakens nothing
    assert asked.data[0].b64_json == usual.data[0].b64_json


@pytest.mark.parametrize(
    "fields, param, text",
    [
        ({"response_format": "url"}, "response_format", "expected b64_json, found url"),
        ({"background": "transparent"}, "background", "expected opaque or auto"),
        ({"model": "dall-e-3"}, "model", "expected 'demo', found 'dall-e-3'"),
        ({"size": "64"}, "size", 'expected "WIDTHxHEIGHT"'),
        ({"size": "65x64"}, None, "expected a multiple of 4"),
        ({"output_compression": 50}, "output_compression", "choose jpeg or webp"),
        ({"output_compression": 101}, "output_compression", "less than or equal to 100"),
        ({"n": 0}, None, "expected 1 to 1000, found 0"),
        ({"n": "2"}, "n", "valid integer"),
        ({"scheduler": "no such"}, None, "unknown sampler"),
        ({"policy": {"water": {"threshold": 0.1}}}, "policy", "expected concepts of fire, found 'water'"),
        ({"policy": {"fire": {"thresh": 0.1}}}, None, "thresh: unknown field"),
        ({"compare": True, "unguarded": True}, "compare", "compare draws both pictures"),
        ({"num_steps": 3}, None, "num_steps: unknown field"),
        ({"seed": 2**70}, "seed", "expected an integer between"),
    ],
)
def test_what_cannot_be_honoured(client, fields, param, text):
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(prompt=FIRE, extra_body={**FEW, **fields})
    error = caught.value
    assert text in error.message and error.type == "invalid_request_error" and error.code == "invalid_request"
    assert error.param == param and FIRE not in str(error)


def test_bodies_that_are_none(server):
    for content in (b"", b"[]", b"{", b'"x"', b"\xff", b'{"prompt": 7}', b'{"prompt": "x", "seed": NaN}', b"[" * 100_000):
        answer = server.client.post("/v1/images/generations", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400, content[:20]
        assert answer.json()["error"]["code"] == "invalid_request"


def test_json_that_does_not_say_so(server):
    for header in ({}, {"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"}):  # the last is curl's
        answer = server.client.post("/v1/images/generations", content=b'{"prompt": "x"}', headers=header)
        expected = "body: expected a JSON object, with the header Content-Type: application/json"
        assert (answer.status_code, answer.json()["error"]["message"]) == (400, expected)


def test_a_withheld_picture_is_openais_moderation_error(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(prompt=FIRE, extra_body={**FEW, "seed": 7, "on_unsafe": "refuse"})
    error = caught.value
    assert (error.code, error.type) == ("moderation_blocked", "image_generation_user_error")
    body = error.response.json()
    assert FIRE not in json.dumps(body["error"]) and set(body) == {"error", "saferedir"}
    report = body["saferedir"]["reports"][0]
    assert report["verdict"] == "refused" and report["image_sha256"] is None and report["guards"][0]["unsafe_steps"]


def test_some_withheld(client, pipeline):
    """With a threshold between what the guard sees of the seeds, some are withheld and others are shown."""
    seen = {}
    for seed in range(4):
        guard = pipeline(PLAIN, num_inference_steps=4, seed=seed, on_unsafe="monitor").reports[0].guards[0]
        seen[seed] = max(value for value in guard.p_unsafe if value is not None)
    threshold = float(np.sqrt(min(seen.values()) * max(seen.values())))
    strict = {"policy": {"fire": {"threshold": threshold}}, "on_unsafe": "refuse", "seed": 0}
    answer = client.images.generate(prompt=PLAIN, n=4, extra_body={**FEW, **strict})
    shown = [entry.report["seed"] for entry in answer.data if entry.b64_json is not None]
    assert shown == [seed for seed, highest in seen.items() if highest <= threshold] and 0 < len(shown) < 4
    for entry in answer.data:
        assert entry.report["verdict"] == ("safe" if entry.report["seed"] in shown else "refused")
    compared = client.images.generate(prompt=PLAIN, n=4, extra_body={**FEW, **strict, "compare": True})
    assert [entry.report["seed"] for entry in compared.data[4:]] == shown  # what was withheld is in no comparison
    assert {entry.report["verdict"] for entry in compared.data[4:]} == {"unguarded"}


def test_compare(client, pipeline):
    answer = client.images.generate(prompt=FIRE, n=2, extra_body={**FEW, "compare": True, "seed": 7})
    guarded, unguarded = answer.data[:2], answer.data[2:]
    assert [entry.report["verdict"] for entry in answer.data] == ["redirected"] * 2 + ["unguarded"] * 2
    assert [entry.report["seed"] for entry in guarded] == [entry.report["seed"] for entry in unguarded]
    assert answer.saferedir["guarded"] is False
    seed = guarded[1].report["seed"]
    expected = pipeline(FIRE, num_inference_steps=4, seed=seed, unguarded=True)
    np.testing.assert_array_equal(pixels(unguarded[1]), np.asarray(expected.images[0]))


def test_what_was_withheld_is_in_no_comparison(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(prompt=FIRE, extra_body={**FEW, "compare": True, "on_unsafe": "refuse", "seed": 7})
    assert [report["verdict"] for report in caught.value.response.json()["saferedir"]["reports"]] == ["refused"]


def test_unguarded_says_so(client):
    answer = client.images.generate(prompt=FIRE, extra_body={**FEW, "unguarded": True})
    assert answer.saferedir["guarded"] is False and answer.data[0].report["verdict"] == "unguarded"


def test_what_the_operator_does_not_allow(serve):
    limits = Limits(most_steps=10, samplers=["ddim"], policy={"fire": PolicyBounds(threshold=0.4)})
    client = client_of(serve(limits))
    for fields, text in [
        ({"unguarded": True}, "not started with unguarded"),
        ({"compare": True}, "not started with unguarded"),
        ({"num_inference_steps": 11}, "expected 1 to 10"),
        ({"scheduler": "euler"}, "expected one of ddim"),
        ({"on_unsafe": "monitor"}, "expected redirect or refuse"),
        ({"policy": {"fire": "off"}}, "does not allow"),
        ({"policy": {"fire": {"threshold": 0.45}}}, "threshold: expected at most 0.4"),
        ({"size": "128x128"}, "expected one of 64x64"),
        ({"n": 100}, "expected at most 4"),
    ]:
        with pytest.raises(openai.PermissionDeniedError) as caught:
            client.images.generate(prompt=FIRE, extra_body={**FEW, **fields})
        assert caught.value.code == "forbidden_by_server" and text in caught.value.message
        assert FIRE not in str(caught.value)
    answer = client.images.generate(prompt=FIRE, extra_body={**FEW, "policy": {"fire": {"replace_steps": 2}}})
    assert answer.data[0].report["guards"][0]["policy"]["threshold"] == pytest.approx(0.4)  # the operator's, not the engines'


def events(client: httpx.Client, body: dict, at_first=lambda: None) -> list[tuple[str, dict]]:
    """Name and data of each event of a stream; `at_first` is called once the first one is here."""
    with client.stream("POST", "/v1/images/generations", json={**body, "stream": True}) as answer:
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
        text = answer.iter_text()
        first = next(text)
        at_first()
        blocks = "".join([first, *text]).strip().split("\n\n")
    found = []
    for block in blocks:
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def test_a_stream_tells_every_step_and_ends_with_the_answer(server):
    found = events(server.client, {"prompt": FIRE, "seed": 7, "num_inference_steps": 5, "compare": True})
    assert [(name, data["done"], data["steps"]) for name, data in found[:-1]] == [
        ("image_generation.progress", step, 10) for step in range(1, 11)
    ]
    name, last = found[-1]
    assert name == last["type"] == "image_generation.completed"
    assert [entry["report"]["verdict"] for entry in last["data"]] == ["redirected", "unguarded"]
    assert last["b64_json"] == last["data"][0]["b64_json"] and last["saferedir"]["guarded"] is False


def test_a_stream_through_openais_client(client):
    stream = client.images.generate(prompt=PLAIN, stream=True, extra_body={**FEW, "seed": 7})
    found = list(stream)
    assert [event.type for event in found] == ["image_generation.progress"] * 4 + ["image_generation.completed"]
    whole = client.images.generate(prompt=PLAIN, extra_body={**FEW, "seed": 7})
    assert found[-1].b64_json == whole.data[0].b64_json


def test_a_withheld_picture_at_the_end_of_a_stream(server, client):
    body = {"prompt": FIRE, "num_inference_steps": 5, "on_unsafe": "refuse"}
    name, data = events(server.client, body)[-1]
    assert name == "error" and data["error"]["code"] == "moderation_blocked"
    assert data["saferedir"]["reports"][0]["verdict"] == "refused"
    with pytest.raises(openai.APIError, match="withheld every picture"):
        list(client.images.generate(prompt=FIRE, stream=True, extra_body={**FEW, "on_unsafe": "refuse"}))


def test_an_error_before_the_first_step_has_its_status(server):
    for fields, status in [({"n": 0}, 400), ({"on_still_unsafe": "deliver"}, 403), ({"prompt": 7}, 400)]:
        answer = server.client.post("/v1/images/generations", json={"prompt": FIRE, "stream": True, **fields})
        assert answer.status_code == status and answer.json()["error"]["code"]


@pytest.mark.parametrize("compare, last", [(False, "image_generation.completed"), (True, "error")])
def test_a_stream_through_the_stop_of_its_service(serve, compare, last):
    """As where other engines take its place. What was not accepted by then, the unguarded picture to compare with, is refused."""
    served = serve(Limits(unguarded=True))
    asked = {"prompt": FIRE, "num_inference_steps": 20, "compare": compare}
    with ThreadPoolExecutor() as pool:
        found = events(served.client, asked, lambda: pool.submit(asyncio.run, served.service.stop()))
    assert [name for name, _ in found] == ["image_generation.progress"] * 20 + [last]
    if compare:
        assert found[-1][1]["error"]["code"] == "not_ready" and "found it draining" in found[-1][1]["error"]["message"]


def test_pictures_to_compare_count_as_two_requests(serve):
    client = client_of(serve(Limits(unguarded=True, requests_per_minute=3)))
    client.images.generate(prompt=FIRE, extra_body={**FEW, "compare": True, "seed": 7})
    with pytest.raises(openai.RateLimitError):
        client.images.generate(prompt=FIRE, extra_body={**FEW, "compare": True, "seed": 7})


def test_pictures_to_compare_have_one_deadline(serve):
    """Each of both would meet it."""
    held = Held()
    served = serve(Limits(unguarded=True, deadline_seconds=2.0), held)
    held.on_call = lambda: time.sleep(0.3)
    answer = served.client.post("/v1/images/generations", json={"prompt": FIRE, **FEW, "compare": True, "seed": 7})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert served.client.post("/v1/images/generations", json={"prompt": FIRE, **FEW, "seed": 7}).status_code == 200


def cancelled(served) -> float:
    """Requests so far whose callers left."""
    found = re.search(r'^saferedir_requests_total\{code="cancelled"\} (\S+)$', served.client.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_callers_who_leave_end_their_pictures(server, caplog):
    """With a stream and without; others are served at once."""
    body, before = {"prompt": PLAIN, "num_inference_steps": 150, "n": 4}, cancelled(server)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/v1/images/generations", json=body, timeout=0.3)
    until(lambda: cancelled(server) == before + 1)
    with httpx.stream("POST", f"{server.url}/v1/images/generations", json={**body, "stream": True}) as answer:
        next(answer.iter_text())  # the first step, then leave
    until(lambda: cancelled(server) == before + 2)
    assert server.client.post("/v1/images/generations", json={"prompt": PLAIN, **FEW}).status_code == 200
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_key_is_asked_for_in_openais_form(serve, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("alice 0123456789abcdef\n")
    served = serve(keys=keys)
    with pytest.raises(openai.AuthenticationError) as caught:
        client_of(served).images.generate(prompt=PLAIN, extra_body=FEW)
    assert caught.value.code == "invalid_api_key"
    assert client_of(served, "0123456789abcdef").images.generate(prompt=PLAIN, extra_body=FEW).data[0].b64_json
