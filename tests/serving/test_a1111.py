"""AUTOMATIC1111's API, through a client that others wrote, and its documented JSON."""

from __future__ import annotations

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import webuiapi
from PIL import Image

from runtime.picture_files import FORMATS, encode, read_report
from runtime.samplers.registry import SAMPLERS
from runtime.serving.limits import Limits
from runtime.serving.policy_bounds import PolicyBounds
from runtime.serving.routes import catalogue
from runtime.serving.routes.image_request import ImageRequest
from runtime.serving.routes.progress import Works
from runtime.serving.routes.txt2img_request import REFUSED, WITHOUT_EFFECT, Txt2ImgRequest
from tests.runtime.reports import drawn
from tests.serving.conftest import until

FIRE, PLAIN = "a burning blue square", "a small blue circle on a white background"
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
    found = client.txt2img(prompt=FIRE, negative_prompt="a star", seed=7, cfg_scale=5.0, n_iter=2, steps=12, **SIZE)
    options = {"negative_prompt": "a star", "num_inference_steps": 12, "guidance_scale": 5.0, "scheduler": "Euler a"}
    expected = [pipeline(FIRE, seed=seed, **options) for seed in (7, 8)]
    assert len(found.images) == 2 and found.info["all_seeds"] == [7, 8]
    for image, report, result in zip(found.images, found.info["saferedir"]["reports"], expected, strict=True):
        np.testing.assert_array_equal(np.asarray(image), np.asarray(result.images[0]))
        assert report["verdict"] == "redirected" and json.loads(image.text["saferedir"]) == report
    assert found.info["saferedir"]["guarded"] is True and found.info["saferedir"]["withheld"] == 0
    assert found.parameters["prompt"] == FIRE and found.parameters["seed"] == 7
    assert found.info["infotexts"][1] == (
        f"{FIRE}\nNegative prompt: a star\nSteps: 12, Sampler: euler_ancestral, CFG scale: 5.0, Seed: 8, Size: 64x64"
    )


def test_every_option_reaches_the_pipeline(client, server, pipeline):
    skipped = {"CLIP_stop_at_last_layers": 2}
    found = client.txt2img(
        prompt=PLAIN, seed=3, steps=12, sampler_name="DPM++ 2M", scheduler="Karras", override_settings=skipped, **SIZE
    )
    assert ", Schedule type: Karras" in found.info["infotexts"][0]
    expected = pipeline(
        PLAIN, seed=3, scheduler="DPM++ 2M", schedule_type="karras", clip_skip=1, num_inference_steps=12, guidance_scale=7.0
    )
    assert found.info["saferedir"]["reports"][0]["sampler_options"] == json.loads(expected.reports[0].to_json())["sampler_options"]
    assert found.info["clip_skip"] == 2
    np.testing.assert_array_equal(np.asarray(found.image), np.asarray(expected.images[0]))
    legacy = client.txt2img(prompt=PLAIN, seed=3, steps=12, sampler_name="DPM++ 2M Karras", override_settings=skipped, **SIZE)
    np.testing.assert_array_equal(np.asarray(legacy.image), np.asarray(found.image))  # "automatic" takes the name's own
    noisy = reports(asked(server, sampler_name="DDIM", eta=0.5, seed=1))
    assert noisy[0]["sampler_options"]["eta"] == 0.5
    seeds = [report["seed"] for report in reports(asked(server, seed=-1, batch_size=2))]
    assert -1 not in seeds and seeds != [report["seed"] for report in reports(asked(server, seed=-1, batch_size=2))]


def reports(answer: httpx.Response) -> list[dict]:
    assert answer.status_code == 200, answer.text
    return json.loads(answer.json()["info"])["saferedir"]["reports"]


def test_what_changes_nothing_is_listed(client, server):
    found = client.txt2img(prompt="a (blue:1.2) square", seed=1, save_images=True, **SIZE)
    ignored = found.info["saferedir"]["ignored"]
    assert ignored == found.parameters["saferedir_ignored"]
    assert {"save_images", "denoising_strength", "hr_scale", "subseed"} <= set(ignored)
    weights = "weights in a prompt, as (word:1.2) or [word], AND and BREAK: read as plain text"
    assert ignored[-1] == weights
    for prompt, is_listed in [("a [blue] square", True), ("blue BREAK red", True), (r"a \(blue\) square, and a star", False)]:
        assert (weights in json.loads(asked(server, negative_prompt=prompt).json()["info"])["saferedir"]["ignored"]) == is_listed
    listed = json.loads(asked(server, **{name: 1 for name in WITHOUT_EFFECT}, eta=0.5, sampler_name="Euler").json()["info"])
    assert listed["saferedir"]["ignored"] == [*WITHOUT_EFFECT, "eta"]
    bare = json.loads(asked(server, **dict.fromkeys(WITHOUT_EFFECT), send_images=False).json()["info"])
    assert bare["saferedir"]["ignored"] == []
    assert asked(server, send_images=False).json()["images"] == []


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_change_the_picture_is_refused(server, name):
    answer = asked(server, **{name: 0.25 if name.startswith("s") and name != "styles" else [FIRE]})
    assert answer.status_code == 400 and answer.json()["detail"].startswith(f"{name}: expected none") and FIRE not in answer.text
    for nothing in (*REFUSED[name], None):
        assert asked(server, **{name: nothing}, steps=0).json()["detail"].startswith("num_inference_steps")  # past this check


@pytest.mark.parametrize(
    "body, status, text",
    [
        ({"promt": FIRE}, 400, "unknown fields: expected those that docs/api.md lists, found 'promt'"),
        ({"prompt": [FIRE]}, 422, "prompt: Input should be a valid string"),
        ({"steps": "20"}, 422, "steps: Input should be a valid integer"),
        ({"cfg_scale": "7"}, 422, "cfg_scale: Input should be a valid number"),
        ({"sampler_name": "no such"}, 400, "unknown sampler"),
        ({"sampler_name": "DPM adaptive"}, 400, "its steps are adaptive"),
        ({"scheduler": "no such"}, 400, "schedule_type: expected one of"),
        ({"sampler_name": "Euler a", "eta": 0.0}, 400, "eta: expected 1 with 'Euler a', found 0.0; DDIM and TCD take others"),
        ({"batch_size": 0}, 400, "batch_size: expected 1 or more"),
        ({"batch_size": 3, "n_iter": 3}, 403, "expected at most 4 images"),
        ({"width": 65}, 400, "expected a multiple of 4"),
        ({"width": 128}, 403, "size: expected one of 64x64"),
        ({"prompt": f"{FIRE} <lora:x:1>"}, 400, "extra networks: expected none in a prompt"),
        ({"override_settings": {"sd_vae": "x"}}, 400, "override_settings: expected CLIP_stop_at_last_layers"),
        ({"override_settings": {"sd_model_checkpoint": "other"}}, 400, "override_settings.sd_model_checkpoint: expected 'demo'"),
        ({"override_settings": {"CLIP_stop_at_last_layers": 0}}, 400, "clip_skip: expected at least 0"),
        ({"override_settings": {"CLIP_stop_at_last_layers": "2"}}, 400, "expected an integer"),
        ({"unguarded": True}, 400, "unknown fields"),
    ],
)
def test_what_cannot_be_honoured(server, body, status, text):
    answer = asked(server, **body)
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error", "detail", "body", "errors"}
    assert text in answer.json()["detail"] and FIRE not in answer.text


def test_the_docs_name_every_field():
    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
    fields = [*Txt2ImgRequest.model_fields, *REFUSED, *WITHOUT_EFFECT, *ImageRequest.model_fields]
    assert [name for name in fields if f"`{name}`" not in text and not name.startswith("hr_")] == []


def test_a_withheld_picture_is_an_error_and_never_black(serve):
    served = serve(Limits(on_unsafe="refuse"))
    with pytest.raises(RuntimeError) as caught:
        client_of(served).txt2img(prompt=FIRE, seed=7, **SIZE)
    status, text = caught.value.args
    answer = json.loads(text)
    assert status == 422 and answer["error"] == "ContentWithheld" and "images" not in answer
    assert FIRE not in json.dumps({name: answer[name] for name in ("error", "detail", "body", "errors")})
    assert [report["verdict"] for report in answer["saferedir"]["reports"]] == ["refused"]
    assert "withheld every picture" in answer["detail"]
    shown = client_of(served).txt2img(prompt=PLAIN, seed=7, **SIZE)
    assert np.asarray(shown.image).any()


def test_of_several_pictures_those_withheld_are_left_out(serve, pipeline):
    drawn_before = [pipeline(PLAIN, num_inference_steps=2, seed=seed, guidance_scale=7.0).reports[0] for seed in range(3)]
    highest = [max(value for value in report.guards[0].p_unsafe if value is not None) for report in drawn_before]
    threshold = float(np.sqrt(min(highest) * max(highest)))
    served = serve(Limits(on_unsafe="refuse", policy={"fire": PolicyBounds(threshold=threshold)}))
    answer = asked(served, seed=0, batch_size=3)
    info = json.loads(answer.json()["info"])
    expected = [seed for seed in range(3) if highest[seed] <= threshold]
    assert 0 < len(expected) < 3 and info["all_seeds"] == expected and len(answer.json()["images"]) == len(expected)
    assert info["saferedir"]["withheld"] == 3 - len(expected) and len(info["saferedir"]["reports"]) == 3
    for encoded, seed in zip(answer.json()["images"], expected, strict=True):
        assert read_report(base64.b64decode(encoded)).report["seed"] == seed


def test_lists(client, server):
    names = client.util_get_sampler_names()
    assert {*SAMPLERS, "DPM++ 2M", "DPM++ SDE"} <= set(names)
    for name in names[::4]:  # what is listed can be asked for
        # Enough steps for a picture with every sampler: debris may be withheld.
        assert asked(server, sampler_name=name, steps=50, seed=5).status_code == 200, name
    assert {"automatic", "karras"} <= set(client.util_get_scheduler_names())
    assert client.util_get_model_names() == ["demo"] and client.util_get_current_model() == "demo"
    few = catalogue.samplers(Limits(samplers=["euler_ancestral"]))
    assert few == [{"name": "euler_ancestral", "aliases": ["EulerAncestralDiscreteScheduler", "Euler a"], "options": {}}]


def test_options_are_read_only(client, server):
    assert client.get_options()["samples_format"] == "png"
    answer = client.set_options({"sd_model_checkpoint": "other"})
    assert answer["error"] == "ForbiddenError" and "options: expected to be read only" in answer["detail"]
    assert post(server, "options", x=1).status_code == 403
    assert client.util_get_current_model() == "demo"


def test_progress(client, server):
    assert client.get_progress()["progress"] == 0 and client.get_progress()["state"]["job_count"] == 0
    client.util_wait_for_ready()
    with ThreadPoolExecutor(1) as pool:
        drawing = pool.submit(asked, server, steps=40)
        until(lambda: 0 < client.get_progress()["progress"] < 1)
        found = client.get_progress()
        assert drawing.result().status_code == 200
    state = found["state"]
    assert state["sampling_steps"] == 40 and 0 < state["sampling_step"] <= 40 and state["job_count"] == 1
    assert found["progress"] == state["sampling_step"] / 40 and found["eta_relative"] >= 0
    assert client.get_progress()["progress"] == 0


def test_callers_see_their_own_progress():
    works = Works()
    with works.work("alice") as first, works.work("alice") as second:
        first.step(1, 4)
        second.step(3, 4)
        assert works.progress("alice")["progress"] == 0.75 and works.progress("bob")["state"]["job_count"] == 0
    assert works.progress("alice")["state"]["job_count"] == 0


@pytest.mark.parametrize("form", FORMATS)
def test_png_info_reads_a_report_and_checks_it(server, form):
    image, report = drawn()
    encoded = base64.b64encode(encode(image, report, form)).decode()
    for text in (encoded, f"data:image/{form};base64,{encoded}"):
        found = post(server, "png-info", image=text).json()
        assert found["matches"] is True and found["problem"] is None and found["report"] == json.loads(report.to_json())
    assert found["parameters"]["Prompt"] == "a burning é" and found["info"].startswith("a burning é\n")
    assert json.loads(found["items"]["saferedir"]) == found["report"]


def test_png_info_of_other_pictures(client, server):
    image, report = drawn()
    picture = Image.open(io.BytesIO(encode(image, report)))
    kept = client.png_info(picture).json  # the client saves it again with its texts
    assert kept["matches"] is True and kept["report"]["verdict"] == "redirected"
    changed = Image.open(io.BytesIO(encode(image, report)))
    changed.putpixel((0, 0), (255, 255, 255))
    found = client.png_info(changed).json
    assert found["matches"] is False and "altered, or another one" in found["problem"] and found["report"]
    none = client.png_info(Image.new("RGB", (8, 8))).json
    assert (none["report"], none["matches"], none["info"]) == (None, False, "") and "expected a report" in none["problem"]
    large = io.BytesIO()
    Image.new("1", (5_000, 5_000)).save(large, format="PNG")
    bomb = post(server, "png-info", image=base64.b64encode(large.getvalue()).decode())
    assert "at most 16777216 pixels, found 5000x5000" in bomb.json()["problem"]
    for text in ("no base64!", "é", "data:"):
        answer = post(server, "png-info", image=text)
        assert answer.status_code in (200, 400) and answer.json().get("report") is None


def test_keys_as_the_password_of_basic_authentication(serve, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("alice 0123456789abcdef\n")
    served = serve(keys=keys)
    client = client_of(served)
    with pytest.raises(RuntimeError) as caught:
        client.txt2img(prompt=PLAIN, **SIZE)
    assert caught.value.args[0] == 401 and json.loads(caught.value.args[1])["error"] == "AuthenticationError"
    client.set_auth("alice", "0123456789abcdef")
    assert client.txt2img(prompt=PLAIN, **SIZE).image.size == (64, 64)
