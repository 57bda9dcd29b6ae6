"""A batch is independent runs: each image may have a sampler, step count, guidance, policy and mode of its own."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from engines.errors import InputError
from engines.policy import Policy
from runtime import GuardedPipeline
from tests.runtime.test_pipeline import FIRE, PLAIN, levels

PROMPTS = [FIRE, PLAIN, "a flaming pink star at the top of a black background", "a burning small red circle"]


def alone_and_together(pipeline, per_image, **options):
    """Each image of a batch, and the same image by itself."""
    together = pipeline(PROMPTS, seed=[3, 4, 5, 6], **per_image, **options)
    for index, prompt in enumerate(PROMPTS):
        own = {name: values[index] for name, values in per_image.items()}
        alone = pipeline(prompt, seed=3 + index, **own, **options)
        yield (together.images[index], together.reports[index]), (alone.images[0], alone.reports[0])


def assert_same(found, expected):
    (image, report), (reference_image, reference) = found, expected
    assert (image is None) == (reference_image is None)
    assert image is None or levels(image, reference_image) <= 1
    for name in ("verdict", "sampler", "sampler_options", "num_inference_steps", "timesteps", "guidance_scale", "on_unsafe"):
        assert getattr(report, name) == getattr(reference, name), name
    for guard, other in zip(report.guards, reference.guards, strict=True):
        assert (guard.checked, guard.unsafe_steps, guard.policy) == (other.checked, other.unsafe_steps, other.policy)
        assert guard.redirected_steps == other.redirected_steps and guard.responsible_tokens == other.responsible_tokens
        assert guard.final_p_unsafe == pytest.approx(other.final_p_unsafe, abs=1e-3)


@pytest.mark.parametrize(
    "per_image",
    [
        {"num_inference_steps": [12, 5, 9, 1]},
        {"scheduler": ["ddim", "pndm", "lms", "ddim"], "num_inference_steps": [10, 12, 12, 7]},
        {"scheduler": ["DPM++ 2M Karras", "heun", "UniPC", "dpmpp_sde"], "num_inference_steps": [8, 5, 9, 10]},
        {"scheduler": ["euler"] * 4, "schedule_type": ["karras", None, "beta", "align your steps"]},
        {"guidance_scale": [7.5, 2.0, 1.0, 4.0]},
        {"check": ["before", "beside", "beside", "before"], "policy": [Policy(shift="conditional"), None, None, Policy()]},
        {"policy": [Policy(replace_steps=0), None, Policy(alpha_scale=0.5, replace_steps=4), {"fire": Policy(threshold=0.9)}]},
        {"on_unsafe": ["refuse", "redirect", "monitor", "redirect"], "negative_prompt": ["", "red", "", "a star"]},
    ],
    ids=lambda options: "-".join(options),
)
def test_images_of_a_batch_differ_in(pipeline, per_image):
    options = {} if "num_inference_steps" in per_image else {"num_inference_steps": 12}
    for found, expected in alone_and_together(pipeline, per_image, **options):
        assert_same(found, expected)


def test_a_value_for_each_image_or_one_for_all(pipeline):
    for name, values in {"num_inference_steps": [2, 3, 4], "scheduler": ["ddim"] * 3, "policy": [Policy()] * 3}.items():
        with pytest.raises(InputError, match=f"{name}: expected one value, or one for each of 2 prompts, found 3"):
            pipeline([FIRE, PLAIN], **{name: values})
    with pytest.raises(InputError, match="policy: expected concepts of fire, found 'smoke'"):
        pipeline(FIRE, policy={"smoke": Policy()}, num_inference_steps=2)


def test_a_sampler_that_takes_noise_equals_diffusers(pipeline, diffusers_pipeline):
    """The noise of each step continues the image's own stream, as a generator of torch does."""
    scheduler = diffusers_pipeline.scheduler
    diffusers_pipeline.scheduler = DDIMScheduler.from_config(scheduler.config)
    try:
        generators = [torch.Generator().manual_seed(seed) for seed in (3, 4, 5, 6)]
        expected = diffusers_pipeline(PROMPTS, num_inference_steps=12, guidance_scale=4.0, generator=generators, eta=1.0).images
    finally:
        diffusers_pipeline.scheduler = scheduler
    found = pipeline(PROMPTS, seed=3, num_inference_steps=12, guidance_scale=4.0, scheduler="ddim", eta=1.0, unguarded=True)
    differences = np.abs(
        np.array([np.asarray(image, int) for image in found.images]) - [np.asarray(image, int) for image in expected]
    )
    assert differences.max() <= 2 and (differences > 1).mean() < 1e-3  # of 1e-5 in the noise, after twelve draws


def test_a_finished_images_guard_stands_still(pipeline):
    """What the final check sees is the embedding of its own last step, however long the batch goes on."""
    policy = Policy(threshold=0.0, replace_steps=0)
    per_image = {"num_inference_steps": [3, 12, 6, 9]}
    for found, expected in alone_and_together(pipeline, per_image, policy=policy, on_still_unsafe="deliver"):
        assert_same(found, expected)
        assert found[1].guards[0].final_p_unsafe == pytest.approx(expected[1].guards[0].final_p_unsafe, rel=1e-3)


def test_noise_is_for_the_images_that_take_it(pipeline):
    per_image = {"scheduler": ["Euler a", "ddim", "ddim", "pndm"], "eta": [0.0, 1.0, 0.0, 0.0], "num_inference_steps": [6, 9, 9, 5]}
    for found, expected in alone_and_together(pipeline, per_image):
        assert_same(found, expected)


def test_a_closed_pipeline_holds_no_engine_and_no_buffer(demo_engines):
    engines = []

    def watched(engine):
        engines.append(weakref.ref(engine))
        return engine

    with GuardedPipeline(demo_engines, wrap=watched) as opened:
        opened(PLAIN, seed=0, num_inference_steps=2)
        held = [weakref.ref(opened._opened().backend), *map(weakref.ref, opened._opened()._loops.values())]
    gc.collect()
    assert len(engines) == 6 and not any(reference() for reference in (*engines, *held))
    with pytest.raises(InputError, match="found it closed"):
        opened.used_device_memory()
