"""Whatever a caller sends is answered with a picture or a 4xx that repeats no prompt, and the server goes on."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from runtime.serving.limits import Limits
from runtime.serving.routes.image_request import ImageRequest
from runtime.serving.routes.txt2img_request import REFUSED, WITHOUT_EFFECT, Txt2ImgRequest

SECRET = "zq-secret"
IMAGES, TXT2IMG, PNG_INFO = "/v1/images/generations", "/sdapi/v1/txt2img", "/sdapi/v1/png-info"
FIELDS = {
    IMAGES: list(ImageRequest.model_fields),
    TXT2IMG: [*Txt2ImgRequest.model_fields, *REFUSED, *WITHOUT_EFFECT],
    PNG_INFO: ["image"],
}
NUMBERS = st.one_of(
    st.integers(-3, 70), st.integers(), st.sampled_from([2**63, 2**64, 10**400, -(10**400), 10**4000]), st.floats(), st.just(-0.0)
)
TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["auto", "png", "jpeg", "off", "64x64", "Euler a", "karras", "before", "refuse", "\x00", "\ud800", "a" * 5000]),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)), max_leaves=6
)
PROMPTS = st.one_of(
    st.just(f"{SECRET} a blue square"),
    TEXTS.map(lambda text: SECRET + text),
    st.recursive(st.just(SECRET), lambda inner: st.one_of(st.lists(inner, min_size=1), st.dictionaries(TEXTS, inner, min_size=1))),
)
SENSIBLE = {"num_inference_steps": 1, "steps": 1, "n": 1, "batch_size": 1, "on_still_unsafe": "deliver"}


@st.composite
def bodies(draw, path: str) -> bytes:
    """JSON, most of it objects with known fields."""
    names = st.sampled_from(FIELDS[path])
    body = {name: value for name, value in SENSIBLE.items() if name in FIELDS[path]}
    body |= draw(st.dictionaries(st.one_of(names, names, names, TEXTS), ANYTHING, max_size=draw(st.sampled_from([0, 1, 2, 8]))))
    for name in ("prompt", "negative_prompt"):
        if draw(st.booleans()):
            body[name] = draw(PROMPTS)
    content = draw(st.one_of(st.just(body), st.just(body), st.just(body), ANYTHING))
    return json.dumps(content).encode()


def checked(served, path: str, content: bytes) -> int:
    """The status of an answer, which is one of those that the API has."""
    answer = served.client.post(path, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200 or 400 <= answer.status_code < 500, (answer.status_code, content[:300])
    if answer.headers["content-type"].startswith("text/event-stream"):
        assert "event: image_generation.completed" in answer.text or "moderation_blocked" in answer.text
    elif answer.status_code != 200:
        found = {name: value for name, value in answer.json().items() if name != "saferedir"}
        assert "error" in found and SECRET not in json.dumps(found, ensure_ascii=False), found
    return answer.status_code


def trial(served, path: str, count: int) -> set[int]:
    """The statuses of so many bodies."""
    statuses = set()

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(bodies(path))
    def run(content):
        statuses.add(checked(served, path, content))

    run()
    return statuses


def trials(serve, count: int) -> None:
    served = serve(Limits(most_steps=2, most_images=2, on_still_unsafe="deliver", requests_per_minute=1_000_000))
    for path in FIELDS:
        statuses = trial(served, path, count)
        assert statuses & {400, 422} and (200 in statuses or path == PNG_INFO), path
    assert served.service.state == "ready"
    last = {"prompt": "a blue square", "num_inference_steps": 2, "on_still_unsafe": "deliver"}
    assert served.client.post(IMAGES, json=last).status_code == 200


def test_any_body(serve):
    trials(serve, 40)


@pytest.mark.slow
def test_any_body_at_length(serve):
    trials(serve, 1_000)


def test_bodies_that_are_no_objects(server):
    deep = b'{"prompt": "%s", "policy": ' % SECRET.encode() + b'{"fire": ' * 20_000 + b"1" + b"}" * 20_001
    bodies = [b"", b"\xff\xfe", b"null", b"[]", b"[" * 50_000, b"[" * 50_000 + b"]" * 50_000, deep, b'{"n": ' + b"9" * 5_000 + b"}"]
    for path in FIELDS:
        for content in bodies:
            assert checked(server, path, content) in (400, 422), content[:40]
