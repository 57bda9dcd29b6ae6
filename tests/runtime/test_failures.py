"""NaN and infinity from any network: the image is withheld, the error names image, step and network."""

from __future__ import annotations

import json

import numpy as np
import pytest

from engines.errors import NonFiniteError
from runtime import GuardedPipeline

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
        opened(PROMPTS, seed=0, num_inference_steps=2)
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
