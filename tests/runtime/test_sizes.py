"""Sizes, several images per prompt and clip skip: against diffusers, and guarded against an eager loop."""

from __future__ import annotations

import pytest
import torch

from engines.policy import Policy
from export.build_command import DEMO_REDIRECTOR
from runtime import Request
from saferedir.checkpoint import load_redirector
from saferedir.guard import Concept, Guard
from tests.runtime.test_pipeline import FIRE, PLAIN, STEPS, assert_equal_to, eager, levels, scheduler_of

STAR = "a large white star on a black background"


@pytest.fixture
def theirs(diffusers_pipeline):
    """diffusers' pictures with DDIM, of these seeds."""
    diffusers_pipeline.scheduler = scheduler_of(diffusers_pipeline, "ddim")

    def call(prompts, seeds, **options):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return diffusers_pipeline(prompts, num_inference_steps=STEPS, generator=generators, **options).images

    return call


# Latents of 18 x 14, 10 x 27 and 2 x 6: the UNet halves them twice, and not all evenly.
@pytest.mark.parametrize("height, width", [(72, 56), (40, 108), (8, 24)], ids=str)
def test_sizes_that_cannot_be_halved_equal_diffusers(pipeline, diffusers_pipeline, height, width):
    prompts, seeds = [FIRE, STAR], [3, 4]
    expected, _ = eager(diffusers_pipeline, prompts, seeds, "ddim", size=(height, width))
    found = pipeline(prompts, seed=seeds, height=height, width=width, unguarded=True, num_inference_steps=STEPS, scheduler="ddim")
    assert [image.size for image in found.images] == [(width, height)] * 2
    assert max(map(levels, found.images, expected)) <= 1


def test_a_size_of_diffusers_pipeline(pipeline, theirs):
    """It takes multiples of 8 only."""
    found = pipeline(STAR, seed=3, height=72, width=56, unguarded=True, num_inference_steps=STEPS, scheduler="ddim")
    assert levels(found.images[0], theirs(STAR, [3], height=72, width=56)[0]) <= 1


@pytest.mark.parametrize("options", [{"size": (72, 44)}, {"clip_skip": 1}], ids=str)
def test_guarded_equals_an_eager_loop(pipeline, diffusers_pipeline, options):
    prompts, seeds, guard = [FIRE, PLAIN], [7, 8], Guard(Concept(load_redirector(DEMO_REDIRECTOR)))
    pictures, trace = eager(diffusers_pipeline, prompts, seeds, "ddim", guard=guard, before=True, **options)
    asked = dict(options)
    if "size" in asked:
        asked["height"], asked["width"] = asked.pop("size")
    asked |= {"scheduler": "ddim", "num_inference_steps": STEPS, "check": "before", "policy": Policy()}
    found = pipeline(prompts, seed=seeds, **asked)
    for index, (image, report) in enumerate(zip(found.images, found.reports, strict=True)):
        assert_equal_to(pictures[index], trace[:, index], image, report)
    assert [report.verdict for report in found.reports] == ["redirected", "safe"]


def test_several_images_of_several_prompts_equal_diffusers(pipeline, theirs):
    prompts, negative = [PLAIN, STAR], ["a cross", "red"]
    expected = theirs(prompts, range(5, 9), negative_prompt=negative, num_images_per_prompt=2)
    options = {"negative_prompt": negative, "num_images_per_prompt": 2, "unguarded": True}
    for seed in (5, [5, 6, 7, 8]):
        found = pipeline(prompts, seed=seed, num_inference_steps=STEPS, scheduler="ddim", **options)
        assert max(map(levels, found.images, expected)) <= 1
    asked = [(report.prompt, report.negative_prompt, report.seed) for report in found.reports]
    assert asked == [(PLAIN, "a cross", 5), (PLAIN, "a cross", 6), (STAR, "red", 7), (STAR, "red", 8)]
    assert {report.num_images_per_prompt for report in found.reports} == {2}


def test_images_of_a_prompt_share_its_options():
    request = Request([PLAIN, FIRE], num_images_per_prompt=2, num_inference_steps=[3, 5], clip_skip=[0, 1], seed=[4, 3, 2, 1])
    assert request.prompts == [PLAIN, PLAIN, FIRE, FIRE] and request.seeds() == [4, 3, 2, 1]
    assert request.step_counts == [3, 3, 5, 5] and request.clip_skips == [0, 0, 1, 1]
    assert len(set(Request(PLAIN, num_images_per_prompt=3).seeds())) == 3


@pytest.mark.parametrize("clip_skip", [1, 2])
def test_clip_skip_equals_diffusers(pipeline, theirs, clip_skip):
    """Of the prompt, not of the negative one; as many layers as there are leave the embeddings of the tokens."""
    options = {"negative_prompt": "a red circle", "guidance_scale": 4.0, "clip_skip": clip_skip}
    expected, every_layer = theirs(PLAIN, [5], **options)[0], theirs(PLAIN, [5], **{**options, "clip_skip": None})[0]
    found = pipeline(
        [PLAIN, PLAIN],
        seed=[5, 5],
        unguarded=True,
        num_inference_steps=STEPS,
        scheduler="ddim",
        **{**options, "clip_skip": [clip_skip, 0]},
    )
    assert levels(found.images[0], expected) <= 1 and levels(found.images[1], every_layer) <= 1
    assert levels(expected, every_layer) > 20 and [report.clip_skip for report in found.reports] == [clip_skip, 0]
