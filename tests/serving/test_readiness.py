"""Ready means guarded: a guard that fails while the server runs turns it off, until an operator acts."""

from __future__ import annotations

import numpy as np
import pytest

from engines.errors import InputError, NonFiniteError
from runtime import GuardedPipeline
from runtime.serving.errors import NotReadyError
from runtime.serving.limits import Limits
from tests.serving.conftest import until
from tests.serving.engines import Broken, Held, draw

PLAIN = "a small blue circle on a white background"
KEYS = "alice 0123456789abcdef\nadmin fedcba9876543210\n"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def invert(p_unsafe: np.ndarray) -> None:
    p_unsafe[...] = 1 - p_unsafe


def test_a_server_is_ready_after_canaries_and_warm_pictures(server):
    assert server.client.get("/ready").json() == {"state": "ready", "why": ""}
    metrics = server.client.get("/metrics").text
    assert 'saferedir_canary_checks_total{result="pass"}' in metrics and 'saferedir_state{saferedir_state="ready"} 1.0' in metrics


def test_a_picture_of_every_size_is_drawn_first(serve):
    held = Held("vae_decoder")
    served = serve(Limits(sizes=["64x64", "96x64", "64x96"]), held)
    assert held.calls == 3 and served.service.state == "ready"
    assert served.client.post("/draw", json={"prompt": PLAIN, "width": 96, "height": 96}).status_code == 403


def test_canaries_that_fail_in_use_turn_it_off_until_an_operator_acts(serve, tmp_path):
    (tmp_path / "keys").write_text(KEYS)
    guard = Broken("guard", "p_unsafe")
    served = serve(Limits(canary_images=1), guard, keys=tmp_path / "keys")
    draw(served.service, PLAIN)
    guard.how = invert
    until(lambda: served.service.state == "failed")
    answer = served.client.get("/ready")
    assert answer.status_code == 503 and "canary" in answer.json()["why"] and "burning" not in answer.text
    assert 'canary_checks_total{result="fail"} 1.0' in served.service.metrics.exposition().decode()
    with pytest.raises(NotReadyError, match="canary"):
        draw(served.service, PLAIN)

    guard.how = None
    assert served.client.post("/ready").status_code == 401
    assert served.client.post("/ready", headers=bearer("0123456789abcdef")).status_code == 401
    assert served.service.state == "failed"
    assert served.client.post("/ready", headers=bearer("fedcba9876543210")).status_code == 202
    until(lambda: served.service.state == "ready")
    assert draw(served.service, PLAIN).reports[0].verdict == "safe"


def test_only_a_pipeline_with_a_guard_has_canaries(demo_engines, pipeline):
    pipeline.check_canaries()
    with GuardedPipeline(demo_engines, unguarded=True) as unguarded, pytest.raises(InputError, match="found an unguarded one"):
        unguarded.check_canaries()


def test_canaries_are_asked_again_after_a_time_also_when_nothing_is_drawn(serve):
    served = serve(Limits(canary_seconds=0.2))
    metrics = served.service.metrics
    asked = metrics.canaries.labels("pass")._value
    before = asked.get()
    until(lambda: asked.get() > before + 1)


@pytest.mark.parametrize(
    "network, output, value", [("guard", "p_unsafe", np.nan), ("guard", "next_embeds", np.inf), ("unet", "noise_pred", np.nan)]
)
def test_what_is_not_finite_turns_it_off_and_delivers_nothing(serve, network, output, value):
    broken = Broken(network, output)
    served = serve(wrap=broken)
    broken.how = lambda array: array.fill(value)
    with pytest.raises(NonFiniteError):
        draw(served.service, PLAIN)
    assert served.service.state == "failed"
    answer = served.client.post("/draw", json={"prompt": PLAIN})
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "not_ready"


def test_an_engine_that_raises_turns_it_off_and_what_waits_is_refused(serve):
    def fail(array):
        raise RuntimeError(f"broken while drawing {PLAIN}")

    broken = Broken("unet", "noise_pred")
    served = serve(wrap=broken)
    broken.how = fail
    with pytest.raises(NotReadyError, match="RuntimeError in the engine thread") as caught:
        draw(served.service, PLAIN, "a blue square", "a red square")
    assert PLAIN not in str(caught.value) and served.service.state == "failed"
    assert len(served.service._queue) == 0


class Ended(BaseException):
    """As SystemExit: no Exception."""


def test_what_would_end_the_engine_thread_turns_it_off(serve):
    def end(array):
        raise Ended

    broken = Broken("vae_decoder", "finite")
    served = serve(wrap=broken)
    broken.how = end
    with pytest.raises(NotReadyError, match="Ended in the engine thread"):
        draw(served.service, PLAIN)
    broken.how = None
    served.service.start_again()
    until(lambda: served.service.state == "ready")


@pytest.mark.parametrize("wrong", [{"seed": [99]}, {"unguarded": True}], ids=str)
def test_an_image_of_another_request_or_of_no_guard_is_not_delivered(serve, wrong):
    """Whatever mixes them up: here a pipeline that is asked for something else."""
    worker = (served := serve()).service._worker
    asked = worker._pipeline

    def mixed_up(**options):
        return asked(**{**options, **wrong})

    mixed_up.used_device_memory = asked.used_device_memory
    worker._pipeline = mixed_up
    with pytest.raises(NotReadyError, match="RuntimeError in the engine thread"):
        draw(served.service, PLAIN)
    assert served.service.state == "failed"
