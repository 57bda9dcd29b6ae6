"""What every route has: API keys, rates, limits of bodies, no CORS, errors and logs without prompts."""

from __future__ import annotations

import json
import logging
import socket

import httpx
import pytest

from runtime.serving import middleware
from runtime.serving.app import is_local
from runtime.serving.errors import RateLimitError
from runtime.serving.limits import Limits
from runtime.serving.log import JsonLines
from runtime.serving.rate_limit import RateLimit
from runtime.serving.service import Service
from runtime.serving.settings import ServerSettings
from tests.serving.conftest import serving, until
from tests.serving.engines import Broken, Held

SECRET = "a burning secret"
KEYS = "# who may ask\nalice 0123456789abcdef\nbob   bbbbbbbbbbbbbbbbbbbb\n"
DRAWN = {"prompt": SECRET, "num_inference_steps": 2, "seed": 0}


@pytest.fixture
def keyed(serve, tmp_path):
    (tmp_path / "keys").write_text(KEYS)
    return serve(Limits(requests_per_minute=2, most_body_bytes=400), keys=tmp_path / "keys")


def test_keys_and_rates_and_bodies(keyed):
    client, alice = keyed.client, {"Authorization": "Bearer 0123456789abcdef"}
    for headers in ({}, {"Authorization": "Bearer 0123456789abcdeF"}, {"Authorization": "0123456789abcdef"}):
        for path in ("/metrics", "/v1/models"):
            answer = client.get(path, headers=headers)
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
            assert answer.json()["error"]["code"] == "invalid_api_key"
    assert client.get("/health").status_code == client.get("/ready").status_code == 200
    assert client.get("/metrics", headers=alice).status_code == 200
    assert client.get("/metrics", auth=("anybody", "0123456789abcdef")).status_code == 200  # as A1111's clients do

    counted = [client.post("/draw", json=DRAWN, headers=alice) for _ in range(3)]
    assert [answer.status_code for answer in counted] == [200, 200, 429]
    assert 1 <= int(counted[2].headers["retry-after"]) <= 60 and counted[2].json()["error"]["code"] == "rate_limited"

    long = client.post("/draw", json={**DRAWN, "prompt": "x" * 400}, headers=alice)
    chunked = client.post("/draw", content=iter([b"x" * 300, b"x" * 300]), headers=alice)
    for answer in (long, chunked):
        assert answer.status_code == 413 and answer.json()["error"]["code"] == "request_too_large"


def test_a_body_that_does_not_come_is_not_waited_for(server, monkeypatch):
    monkeypatch.setattr(middleware, "BODY_SECONDS", 0.2)
    address = server.client.base_url
    with socket.create_connection((address.host, address.port), timeout=20) as connection:
        head = f"POST /v1/images/generations HTTP/1.1\r\nHost: {address.host}\r\nContent-Length: 100\r\n\r\n"
        connection.sendall(head.encode() + b'{"prompt": ')
        answer = connection.recv(10_000).decode()
    assert answer.startswith("HTTP/1.1 504 ")


def test_each_key_has_a_rate_of_its_own():
    rates = RateLimit(1)
    rates.count("alice")
    rates.count("bob")
    with pytest.raises(RateLimitError, match="at most 1 a minute"):
        rates.count("alice")


@pytest.mark.parametrize(
    "fields, status, code",
    [
        ({"prompt": SECRET, "unguarded": True}, 403, "forbidden_by_server"),
        ({"prompt": SECRET, "num_inference_steps": 1000}, 403, "forbidden_by_server"),
        ({"prompt": SECRET, "eta": -1}, 400, "invalid_request"),
        ({"prompt": SECRET, "scheduler": "nonsense"}, 400, "invalid_request"),
        ({"prompt": SECRET, "policy": {"smoke": "off"}}, 400, "invalid_request"),
        ({"prompt": [SECRET, 7]}, 400, "invalid_request"),
        ({"prompt": {"text": SECRET}}, 400, "invalid_request"),
        ({"prompt": SECRET, "negative_prompt": [SECRET, [SECRET]]}, 400, "invalid_request"),
        ({"prompt": SECRET, "negative_prompt": {SECRET: 1}}, 400, "invalid_request"),
        ({"prompt": [SECRET] * 2, "negative_prompt": [SECRET] * 3}, 400, "invalid_request"),
        (SECRET, 400, "invalid_request"),
    ],
    ids=str,
)
def test_no_error_and_no_log_line_repeats_a_prompt(strict_server, caplog, fields, status, code):
    with caplog.at_level(logging.INFO, "runtime.serving"):
        answer = strict_server.client.post("/draw", json=fields)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    assert "secret" not in answer.text and "secret" not in logged(caplog)


def logged(caplog) -> str:
    return "\n".join(JsonLines().format(record) for record in caplog.records)


@pytest.fixture(scope="module")
def strict_server(demo_engines):
    with serving(Service(ServerSettings(engine_dir=demo_engines))) as served:
        yield served


def test_log_lines_hold_a_keyed_hash_or_the_prompt_where_that_is_wanted(strict_server, serve, caplog):
    with caplog.at_level(logging.INFO, "runtime.serving"):
        for prompt in (SECRET, SECRET, "another"):
            strict_server.client.post("/draw", json={**DRAWN, "prompt": prompt})
    lines = [json.loads(line) for line in logged(caplog).splitlines()]
    hashes = [line["prompts"][0] for line in lines if line["event"] == "request"]
    assert hashes[0] == hashes[1] != hashes[2] and len(hashes[0]) == 64 and "secret" not in logged(caplog)

    caplog.clear()
    with caplog.at_level(logging.INFO, "runtime.serving"):
        serve(log_prompts=True).client.post("/draw", json=DRAWN)
    assert f'"prompts": ["{SECRET}"]' in logged(caplog)


def test_what_nobody_expected_is_answered_and_logged_without_its_text(serve, caplog):
    served = serve()

    async def fail(*_, **__):
        raise ZeroDivisionError(SECRET)

    served.service.generate = fail
    with caplog.at_level(logging.INFO):
        answer = served.client.post("/draw", json=DRAWN)
    assert answer.status_code == 500 and answer.json()["error"]["code"] == "internal_error"
    assert "secret" not in answer.text + logged(caplog) and "ZeroDivisionError" in logged(caplog)


def test_engines_that_fail_log_no_prompt(serve, caplog):
    def fail(array):
        raise ValueError(SECRET)

    broken = Broken("unet", "noise_pred")
    served = serve(wrap=broken)
    broken.how = fail
    with caplog.at_level(logging.INFO):
        answer = served.client.post("/draw", json=DRAWN)
    assert answer.status_code == 503 and "ValueError" in logged(caplog) and "secret" not in answer.text + logged(caplog)


def test_pages_of_other_sites_get_nothing(server):
    foreign = {"Origin": "https://example.com", "Access-Control-Request-Method": "POST"}
    assert not [name for name in server.client.get("/health", headers=foreign).headers if name.startswith("access-control")]
    assert server.client.options("/draw", headers=foreign).status_code == 405
    assert server.client.get("/health", headers={"Host": "rebound.example.com"}).status_code == 400
    assert server.client.get("/health", headers={"Host": "localhost:1234"}).status_code == 200
    assert httpx.post(f"{server.url}/draw", content=json.dumps(DRAWN), headers={"Content-Type": "text/plain"}).status_code == 400


def test_a_caller_that_leaves_is_forgotten(serve):
    held = Held()
    served = serve(wrap=held)
    held.go.clear()
    for _ in range(2):  # one is drawn, one waits
        calls = held.calls
        with pytest.raises(httpx.ReadTimeout):
            served.client.post("/draw", json={**DRAWN, "num_inference_steps": 50}, timeout=0.3)
        assert held.calls in (calls, calls + 1)
    until(lambda: len(served.service._queue) == 0)
    calls = held.calls
    held.go.set()
    assert served.client.post("/draw", json=DRAWN).status_code == 200
    assert held.calls == calls + DRAWN["num_inference_steps"]


def test_unknown_paths_and_methods_have_the_form_of_errors(server):
    for method, path, status in (("GET", "/nowhere", 404), ("DELETE", "/health", 405)):
        answer = server.client.request(method, path)
        assert answer.status_code == status and answer.json()["error"]["code"] == "invalid_request"


@pytest.mark.parametrize(
    "host, local", [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)]
)
def test_which_addresses_are_of_this_machine_only(host, local):
    assert is_local(host) == local


def test_the_offer_says_what_may_be_asked_for(server):
    (model,) = server.client.get("/v1/models").json()["data"]
    offer = model["saferedir"]
    assert model["id"] == "demo" and offer["unguarded"] and offer["sizes"] == ["64x64"] and "ddim" in offer["samplers"]
    policy = server.service.manifest.guards[0].policy
    for name, value in (("threshold", policy.threshold), ("final_threshold", policy.threshold_at_end)):
        assert offer["concepts"]["fire"]["bounds"][name] == offer["concepts"]["fire"]["policy"][name] == value


def test_openapi(server):
    assert "/openapi.json" in server.client.get("/docs").text
    assert {"/health", "/ready", "/v1/models", "/metrics"} <= server.client.get("/openapi.json").json()["paths"].keys()
