"""The state machine: batches equal single runs, countdowns run, NaN never passes as safe."""

from __future__ import annotations

import math

import pytest
import torch

from engines import networks as specs
from saferedir.guard import NOT_CHECKED, Guard
from saferedir.heads import Redirector, RedirectorConfig

WIDTH = 32
SMALL = RedirectorConfig(
    embed_dim=WIDTH, encoder_widths=(8, 8, 8), latent_features=16, classifier_width=16, shift_width=16, mask_width=8, alpha_width=8
)


def make(form, part=None, value=0.0, mask_again=False):
    """A guard on trained heads or on InferenceHeads; `part` names a weight to fill with `value`."""
    torch.manual_seed(0)
    redirector = Redirector(SMALL)
    with torch.no_grad():
        if part is not None:
            dict(redirector.named_parameters())[part].fill_(value)
    trained = Guard(redirector, mask_again)
    return trained.for_inference() if form == "inference" else trained


@pytest.fixture(scope="module", params=["trained", "inference"])
def form(request):
    return request.param


@pytest.fixture(scope="module")
def guard(form):
    return make(form)


def call(guard, images=2, branches=2, countdown=None, threshold=0.5, replace_steps=2, alpha_scale=1.25, seed=0, **changed):
    draw = torch.Generator().manual_seed(seed)
    inputs = {
        "sample": torch.randn(images, 4, 8, 8, generator=draw),
        "timestep": torch.tensor(500.0),
        "embeds": torch.randn(branches * images, 77, WIDTH, generator=draw),
    }
    inputs["original_embeds"] = inputs["embeds"] + 1
    inputs["countdown"] = torch.tensor(countdown or [0] * images, dtype=torch.int32)
    inputs |= {
        "alpha_scale": torch.tensor(alpha_scale),
        "threshold": torch.tensor(threshold),
        "replace_steps": torch.tensor(replace_steps, dtype=torch.int32),
    }
    inputs |= changed
    with torch.no_grad():
        return inputs, guard(*inputs.values())


def test_sentinel_is_the_one_that_the_runtime_reads():
    assert NOT_CHECKED == specs.NOT_CHECKED


def test_safe_images_keep_their_embeddings_bit_for_bit(guard):
    inputs, (embeds, countdown, p_unsafe) = call(guard, threshold=1.0)
    assert torch.equal(embeds, inputs["embeds"])
    assert countdown.tolist() == [0, 0] and countdown.dtype == torch.int32
    assert ((p_unsafe >= 0) & (p_unsafe <= 1)).all()


def test_redirection_is_added_to_the_original_embeddings_of_both_branches(guard):
    inputs, (embeds, countdown, _) = call(guard, threshold=0.0, alpha_scale=2.0)
    original = inputs["original_embeds"].view(2, 2, 77, WIDTH)
    heads = guard.heads(inputs["sample"], inputs["timestep"], inputs["embeds"].view(2, 2, 77, WIDTH)[1])
    direction = heads.delta / heads.delta.norm(dim=2, keepdim=True)
    for branch in range(2):
        shift = 2.0 * heads.alpha * direction * original[branch].norm(dim=2, keepdim=True)
        torch.testing.assert_close(embeds.view(2, 2, 77, WIDTH)[branch], original[branch] + shift)
    assert countdown.tolist() == [2, 2]


def test_running_countdown_skips_the_check(guard):
    inputs, (embeds, countdown, p_unsafe) = call(guard, countdown=[3, 0], threshold=0.0)
    rows = embeds.view(2, 2, 77, WIDTH)
    assert torch.equal(rows[:, 0], inputs["embeds"].view(2, 2, 77, WIDTH)[:, 0])
    assert not torch.equal(rows[:, 1], inputs["embeds"].view(2, 2, 77, WIDTH)[:, 1])
    assert countdown.tolist() == [2, 2]
    assert p_unsafe[0] == NOT_CHECKED and p_unsafe[1] >= 0


@pytest.mark.parametrize("branches", [1, 2])
def test_batch_equals_single_images(guard, branches):
    inputs, outputs = call(guard, images=3, branches=branches, threshold=0.5, seed=3)
    for image in range(3):

        def one(rows, image=image):
            return rows.view(branches, 3, 77, WIDTH)[:, image]

        _, single = call(
            guard,
            images=1,
            branches=branches,
            sample=inputs["sample"][image : image + 1],
            embeds=one(inputs["embeds"]),
            original_embeds=one(inputs["original_embeds"]),
        )
        torch.testing.assert_close(one(outputs[0]), single[0])
        for batched, alone in zip(outputs[1:], single[1:], strict=True):
            torch.testing.assert_close(batched[image : image + 1], alone)


def test_zero_shift_returns_the_original_exactly(guard):
    inputs, (embeds, *_) = call(guard, threshold=0.0, alpha_scale=0.0)
    assert torch.equal(embeds, inputs["original_embeds"])


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    "part, mask_again",
    [
        ("classifier.3.bias", False),
        ("delta_head.scale", False),
        ("t_encoder.0.bias", False),
        ("cross_attn.fuse.0.bias", False),
        ("mask_predictor.predictor.2.bias", True),
    ],
)
def test_nan_and_infinity_in_any_head_are_unsafe_and_show(form, part, mask_again, value):
    _, (_, countdown, p_unsafe) = call(make(form, part, value, mask_again), threshold=1.0)
    assert torch.isnan(p_unsafe).all()
    assert countdown.tolist() == [2, 2]


def test_nan_of_the_scale_is_unsafe_and_shows(form):
    _, (_, countdown, p_unsafe) = call(make(form, "alpha_predictor.net.2.bias", math.nan), threshold=1.0)
    assert torch.isnan(p_unsafe).all()
    assert countdown.tolist() == [2, 2]


def test_nan_of_one_image_does_not_touch_another(guard):
    sample = torch.randn(2, 4, 8, 8)
    sample[0, 0, 0, 0] = math.nan
    _, (_, _, p_unsafe) = call(guard, sample=sample)
    assert torch.isnan(p_unsafe).tolist() == [True, False]


def test_mask_again_scales_the_shift(form):
    guard = make(form)
    inputs, (plain, *_) = call(guard, threshold=0.0)
    _, (masked, *_) = call(make(form, mask_again=True), threshold=0.0)
    original = inputs["original_embeds"]
    mask = guard.heads(inputs["sample"], inputs["timestep"], inputs["embeds"].view(2, 2, 77, WIDTH)[1]).mask
    torch.testing.assert_close(masked - original, torch.cat([mask, mask]).unsqueeze(2) * (plain - original), rtol=1e-3, atol=1e-5)
