"""Metrics: names by Prometheus's conventions, and numbers that say what happened."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from runtime.serving.errors import ForbiddenError
from runtime.serving.limits import Limits
from tests.serving.engines import draw


def read(served, headers=None) -> dict[tuple[str, tuple[str, ...]], float]:
    """Every sample by its name and the values of its labels."""
    text = served.client.get("/metrics", headers=headers).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, tuple(sample.labels.values())): sample.value for sample in samples}


def test_metrics_count_what_happened(serve):
    served = serve(Limits(batch_size=2))
    before = read(served)
    fire, plain = (
        draw(served.service, "a burning blue square", num_inference_steps=8),
        draw(served.service, "a small blue circle on a white background"),
    )
    refused = draw(served.service, "a burning red star", on_unsafe="refuse")
    with pytest.raises(ForbiddenError):
        draw(served.service, "a star", unguarded=True)
    now = read(served)

    def rise(name: str, *labels: str) -> float:
        return now[f"saferedir_{name}", labels] - before.get((f"saferedir_{name}", labels), 0)

    guards = [result.reports[0].guards[0] for result in (fire, plain, refused)]
    assert [result.reports[0].verdict for result in (fire, plain, refused)] == ["redirected", "safe", "refused"]
    assert [rise("images_total", verdict) for verdict in ("redirected", "safe", "refused")] == [1, 1, 1]
    assert rise("images_withheld_total") == 1
    assert (rise("requests_total", "ok"), rise("requests_total", "forbidden_by_server")) == (3, 1)
    assert rise("request_seconds_count") == 4 and rise("request_seconds_sum") > 0
    assert (rise("concept_images_total", "fire", "unsafe"), rise("concept_images_total", "fire", "safe")) == (2, 1)
    assert rise("guard_checks_total", "fire") == rise("p_unsafe_count", "fire") == sum(sum(guard.checked) for guard in guards)
    assert rise("redirected_steps_total", "fire") == sum(len(guard.redirected_steps) for guard in guards) > 0
    assert rise("p_unsafe_bucket", "fire", "0.5") < rise("p_unsafe_bucket", "fire", "1.0")
    assert rise("network_calls_total", "unet") == 8 + 4 + 4 and rise("network_seconds_total", "unet") > 0
    assert rise("batch_images_count") == rise("batch_images_bucket", "1.0") == rise("queue_wait_seconds_count") == 3
    assert (now["saferedir_batch_size", ()], now["saferedir_queue_images", ()]) == (2, 0)
    assert now["process_resident_memory_bytes", ()] > 0


def test_what_is_refused_before_it_is_a_request_for_pictures_is_counted(serve, tmp_path):
    (tmp_path / "keys").write_text("alice 0123456789abcdef\n")
    served = serve(Limits(most_body_bytes=400), keys=tmp_path / "keys")
    alice, path = {"Authorization": "Bearer 0123456789abcdef"}, "/v1/images/generations"
    served.client.post(path, json={"prompt": "a star"})
    served.client.post(path, json={"promt": "a star"}, headers=alice)
    served.client.post(path, json={"prompt": "x" * 400}, headers=alice)
    served.client.get("/health")
    now = read(served, alice)
    counted = {labels[0]: value for (name, labels), value in now.items() if name == "saferedir_http_responses_total"}
    assert counted == {"401": 1, "400": 1, "413": 1, "200": 1}


def test_the_docs_name_every_metric(server):
    text = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    names = re.findall(r"^# TYPE (saferedir_\w+)", server.client.get("/metrics").text, re.MULTILINE)
    assert len(names) > 20 and [name for name in names if f"`{name}" not in text] == []


def test_what_serves_is_said(server, pipeline):
    text = server.client.get("/metrics").text
    (info,) = [line for line in text.splitlines() if line.startswith("saferedir_engines_info{")]
    assert 'concepts="fire"' in info and f'guard_digests="{pipeline.manifest.guards[0].digest}"' in info and 'model="demo"' in info
