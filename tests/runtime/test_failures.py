"""NaN and infinity from any network, and answers that no guard gives: the image is withheld, the error names image and step."""

from __future__ import annotations

import json

import numpy as np
import pytest

from engines.errors import NonFiniteError
from engines.policy import OFF, Policy
from engines.records import GuardRecord
from runtime import GuardedPipeline
from runtime.judge import Terms, judge
from runtime.loop import Trace

PROMPTS = ["a blue square", "a small red star"]
STEPS = 5


class Breaking:
    """A loaded engine whose output of image 1 turns into `value` on its n-th call."""

    def __init__(self, engine, output: str, value: float, call: int) -> None:
        self.spec, self._engine, self._output, self._value, self._left = engine.spec, engine, output, value, call

    def bind(self, **tensors):
        run, output = self._engine.bind(**tensors), tensors[self._output]
        dims = next(tensor.dims for tensor in self.spec.outputs if tensor.name == self._output)
        axis = next(place for place, dim in enumerate(dims) if dim in ("B", "CB"))

        def broken():
            run()
            if self._left == 0:
                np.moveaxis(output, axis, 0)[1::2] = self._value
            self._left -= 1

        return broken


def broken_pipeline(demo_engines, network, output, value, call):
    return GuardedPipeline(
        demo_engines, wrap=lambda engine: Breaking(engine, output, value, call) if engine.spec.name == network else engine
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize(
    "network, output, call, message",
    [
        ("unet", "noise_pred", 2, "image 1: unet returned NaN or infinity at step 2 of 5"),
        ("guard", "p_unsafe", 3, "image 1: guard returned NaN or infinity at step 3 of 5"),
        ("guard", "next_embeds", 1, "image 1: unet returned NaN or infinity at step 2 of 5"),
        ("guard", "next_shifts", 1, "image 1: guard returned NaN or infinity at step 2 of 5"),
        ("sampler_step", "next_state", 4, "image 1: the final latents hold NaN or infinity"),
    ],
)
def test_image_is_withheld_and_named(demo_engines, network, output, call, message, value):
    opened = broken_pipeline(demo_engines, network, output, value, call)
    with pytest.raises(NonFiniteError) as caught:
        opened(PROMPTS, seed=0, num_inference_steps=STEPS, check="beside")
    assert message in str(caught.value)
    assert "image 0" not in str(caught.value)
    result = caught.value.result
    assert result.images[1] is None and result.images[0] is not None
    assert [report.verdict for report in result.reports] == ["safe", "failed"]
    assert result.reports[1].image_sha256 is None
    if output == "p_unsafe":
        assert json.loads(result.reports[1].to_json())["guards"][0]["p_unsafe"][call] is None


def test_decoder(demo_engines):
    opened = broken_pipeline(demo_engines, "vae_decoder", "finite", False, 0)
    with pytest.raises(NonFiniteError, match="image 1: vae_decoder returned NaN or infinity") as caught:
        opened(PROMPTS, seed=0, num_inference_steps=STEPS, on_still_unsafe="deliver")
    assert caught.value.result.images[1] is None and caught.value.result.images[0] is not None


def test_text_encoder(demo_engines):
    opened = broken_pipeline(demo_engines, "text_encoder", "text_embeddings", np.nan, 0)
    with pytest.raises(NonFiniteError, match="text_encoder: returned NaN or infinity"):
        opened(PROMPTS, seed=0, num_inference_steps=2)


def test_the_next_call_is_sound_again(demo_engines):
    opened = broken_pipeline(demo_engines, "unet", "noise_pred", np.nan, 1)
    with pytest.raises(NonFiniteError):
        opened(PROMPTS, seed=0, num_inference_steps=STEPS)
    again = opened(PROMPTS, seed=0, num_inference_steps=STEPS)
    with GuardedPipeline(demo_engines) as fresh:
        expected = fresh(PROMPTS, seed=0, num_inference_steps=STEPS)
    assert again.reports == expected.reports


@pytest.mark.parametrize(
    "output, value, call, message",
    [
        ("p_unsafe", -1.0, 0, "guard did not check the image at step 0 of 5"),
        ("p_unsafe", 1.5, 2, "guard gave p_unsafe 1.5, expected 0 to 1, at step 2 of 5"),
        ("p_unsafe", 0.75, 1, "guard called p_unsafe 0.75 safe with threshold 0.4 at step 1 of 5"),
        ("unsafe", True, 3, "unsafe with threshold 0.4 at step 3 of 5"),
        ("p_unsafe", -0.5, 5, "guard gave p_unsafe -0.5, expected 0 to 1, in the final check"),
        ("unsafe", True, 5, "unsafe with threshold 0.6 in the final check"),
    ],
)
def test_answers_that_no_guard_gives_withhold_the_image(demo_engines, output, value, call, message):
    opened = broken_pipeline(demo_engines, "guard", output, value, call)
    with pytest.raises(NonFiniteError) as caught:
        opened(PROMPTS, seed=0, num_inference_steps=STEPS, policy=Policy(threshold=0.4, final_threshold=0.6))
    assert message in str(caught.value) and "image 0" not in str(caught.value)
    assert caught.value.result.images[1] is None and caught.value.result.images[0] is not None


@pytest.mark.parametrize(
    "p_unsafe, replace_steps, on_unsafe, fault",
    [
        ([0.9, -1, -1, 0.1, 0.2], 2, "redirect", None),
        ([0.9, -1, 0.1, 0.1, 0.2], 2, "redirect", "expected none while its countdown runs, at step 2"),
        ([0.9, -1, -1, -1, 0.2], 2, "redirect", "did not check the image at step 3"),
        ([0.9, 0.9, 0.1, 0.9, 0.1], 0, "redirect", None),
        ([0.9, 0.9, 0.1, 0.9, 0.1], 2, "monitor", None),
        ([0.9, -1, -1, 0.1, 0.2], 2, "refuse", "did not check the image at step 1"),
    ],
)
def test_checks_follow_the_countdown_of_the_policy(p_unsafe, replace_steps, on_unsafe, fault):
    answers = np.array(p_unsafe, np.float32).reshape(-1, 1, 1)
    final = np.full((1, 1), 0.1, np.float32)
    trace = Trace(np.zeros((1, 4, 2, 2), np.float32), np.ones((5, 1), bool), answers, answers > 0.5, final, final > 0.5)
    record = GuardRecord("fire", "fire.pt", "0" * 64, False, Policy())
    found = judge(trace, 0, Terms(5, on_unsafe, "beside", None), [(record, Policy(replace_steps=replace_steps))])
    assert (found.failure is None) == (fault is None) and (fault or "") in (found.failure or "")
    assert (found.verdict == "failed") == (fault is not None)


@pytest.mark.parametrize(
    "p_unsafe, final, fault",
    [
        ([-1, -1, -1], -1, None),
        ([-1, 0.1, -1], -1, "expected none while its countdown runs, at step 1"),
        ([-1, -1, np.nan], -1, "expected none while its countdown runs, at step 2"),
        ([-1, -1, -1], 0.1, "expected none while its countdown runs, in the final check"),
    ],
)
def test_a_concept_that_is_off_has_no_answers(p_unsafe, final, fault):
    answers, last = np.array(p_unsafe, np.float32).reshape(-1, 1, 1), np.full((1, 1), final, np.float32)
    trace = Trace(np.zeros((1, 4, 2, 2), np.float32), np.ones((3, 1), bool), answers, answers > 0.5, last, last > 0.5)
    record = GuardRecord("fire", "fire.pt", "0" * 64, False, Policy())
    found = judge(trace, 0, Terms(3, "redirect", "beside", None), [(record, OFF)])
    assert (found.failure is None) == (fault is None) and (fault or "") in (found.failure or "")
