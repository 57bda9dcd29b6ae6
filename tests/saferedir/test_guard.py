"""The state machine: batches equal single runs, countdowns run, concepts add up, NaN never passes as safe."""

from __future__ import annotations

import math

import pytest
import torch

from engines.networks import NEVER, NOT_CHECKED
from saferedir.guard import Concept, Guard, TokenMask
from saferedir.heads import Redirector, RedirectorConfig

WIDTH = 32
SMALL = RedirectorConfig(
    embed_dim=WIDTH,
    encoder_widths=(8, 8, 8),
    latent_features=16,
    classifier_width=16,
    shift_width=16,
    mask_width=8,
    alpha_width=8,
)


def heads(part=None, value=0.0, seed=0):
    """Trained heads; `part` names a weight to fill with `value`."""
    torch.manual_seed(seed)
    redirector = Redirector(SMALL)
    with torch.no_grad():
        if part is not None:
            dict(redirector.named_parameters())[part].fill_(value)
    return redirector


def make(form, part=None, value=0.0, mask_again=False, concepts=1):
    """A guard on trained heads or on InferenceHeads; the part is filled in the first concept's."""
    all_heads = [heads(part if seed == 0 else None, value, seed) for seed in range(concepts)]
    trained = Guard(*(Concept(each, mask_again) for each in all_heads))
    return trained.for_inference() if form == "inference" else trained


@pytest.fixture(scope="module", params=["trained", "inference"])
def form(request):
    return request.param


@pytest.fixture(scope="module")
def guard(form):
    return make(form)


def call(guard, images=2, branches=2, countdown=None, threshold=0.5, replace_steps=2, alpha_scale=1.25, seed=0, **changed):
    draw, concepts = torch.Generator().manual_seed(seed), len(guard.concepts)
    inputs = {"sample": torch.randn(images, 4, 8, 8, generator=draw), "timestep": torch.full((images,), 500.0)}
    embeds = torch.randn(branches * images, 77, WIDTH, generator=draw)
    inputs["original_embeds"] = embeds + 1
    inputs["shifts"] = torch.full((concepts, *embeds.shape), -1 / concepts)
    if not isinstance(countdown, torch.Tensor):
        countdown = torch.tensor([countdown or [0] * images] * concepts, dtype=torch.int32)
    inputs["countdown"] = countdown
    each = (concepts, images)
    inputs |= {
        "alpha_scale": torch.as_tensor(alpha_scale).expand(concepts, branches * images),
        "threshold": torch.as_tensor(threshold).expand(each),
        "replace_steps": torch.as_tensor(replace_steps, dtype=torch.int32).expand(each),
        "delayed": torch.zeros(images, dtype=torch.bool),
    }
    inputs |= changed
    with torch.no_grad():
        return inputs, guard(*inputs.values())


def current(inputs):
    """The embeddings that the UNet saw."""
    return inputs["original_embeds"] + inputs["shifts"].sum(0)


def test_safe_images_keep_their_embeddings_bit_for_bit(guard):
    inputs, (embeds, shifts, countdown, p_unsafe, unsafe) = call(guard, threshold=1.0)
    assert torch.equal(embeds, current(inputs)) and torch.equal(shifts, inputs["shifts"])
    assert countdown.tolist() == [[0, 0]] and countdown.dtype == torch.int32
    assert ((p_unsafe >= 0) & (p_unsafe <= 1)).all() and not unsafe.any()


def test_redirection_is_added_to_the_original_embeddings_of_both_branches(guard):
    inputs, (embeds, shifts, countdown, _, unsafe) = call(guard, threshold=0.0, alpha_scale=2.0)
    original = inputs["original_embeds"].view(2, 2, 77, WIDTH)
    outputs = guard.concepts[0].heads(inputs["sample"], inputs["timestep"], current(inputs).view(2, 2, 77, WIDTH)[1])
    direction = outputs.delta / outputs.delta.norm(dim=2, keepdim=True)
    for branch in range(2):
        shift = 2.0 * outputs.alpha * direction * original[branch].norm(dim=2, keepdim=True)
        torch.testing.assert_close(embeds.view(2, 2, 77, WIDTH)[branch], original[branch] + shift)
        torch.testing.assert_close(shifts.view(2, 2, 77, WIDTH)[branch], shift)
    assert countdown.tolist() == [[2, 2]] and unsafe.all()


def test_running_countdown_skips_the_check(guard):
    inputs, (embeds, _, countdown, p_unsafe, unsafe) = call(guard, countdown=[3, 0], threshold=0.0)
    rows, before = embeds.view(2, 2, 77, WIDTH), current(inputs).view(2, 2, 77, WIDTH)
    assert torch.equal(rows[:, 0], before[:, 0])
    assert not torch.equal(rows[:, 1], before[:, 1])
    assert countdown.tolist() == [[2, 2]]
    assert p_unsafe[0, 0] == NOT_CHECKED and p_unsafe[0, 1] >= 0
    assert unsafe.tolist() == [[False, True]]


@pytest.mark.parametrize("concepts", [1, 3])
@pytest.mark.parametrize("branches", [1, 2])
def test_batch_equals_single_images(form, branches, concepts):
    guard, numbers = make(form, concepts=concepts), torch.rand(concepts, 3, generator=torch.Generator().manual_seed(4))
    policies = {
        "alpha_scale": 2 * numbers.repeat(1, branches),
        "threshold": numbers,
        "replace_steps": torch.arange(3 * concepts, dtype=torch.int32).view(concepts, 3),
    }
    times = torch.tensor([900.0, 500.0, 20.0])
    inputs, outputs = call(guard, images=3, branches=branches, seed=3, timestep=times, **policies)
    for image in range(3):

        def one(rows, image=image):
            return rows.unflatten(-3, (branches, 3))[..., image, :, :]

        _, single = call(
            guard,
            images=1,
            branches=branches,
            sample=inputs["sample"][image : image + 1],
            timestep=times[image : image + 1],
            original_embeds=one(inputs["original_embeds"]),
            shifts=one(inputs["shifts"]),
            **{name: values[:, image::3] for name, values in policies.items()},
        )
        for batched, alone in zip(outputs[:2], single[:2], strict=True):
            torch.testing.assert_close(one(batched), alone)
        for batched, alone in zip(outputs[2:], single[2:], strict=True):
            torch.testing.assert_close(batched[:, image : image + 1], alone)


def test_several_concepts_add_their_shifts_and_see_the_common_embeddings(form):
    guard = make(form, concepts=2)
    threshold = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])  # unsafe for the first, for the second, for both
    inputs, (embeds, shifts, countdown, p_unsafe, unsafe) = call(guard, images=3, threshold=threshold)
    assert unsafe.tolist() == [[True, False, True], [False, True, True]]
    assert countdown.tolist() == [[2, 0, 2], [0, 2, 2]]
    torch.testing.assert_close(embeds, inputs["original_embeds"] + shifts.sum(0))
    for index in range(2):
        alone = Guard(guard.concepts[index])
        common = current(inputs) - inputs["original_embeds"]
        numbers = {"threshold": threshold[index : index + 1], "shifts": common[None]}
        _, (_, shift, _, p, _) = call(alone, images=3, original_embeds=inputs["original_embeds"], **numbers)
        torch.testing.assert_close(p_unsafe[index], p[0])
        rows, kept = (each.view(2, 3, 77, WIDTH) for each in (shift[0], inputs["shifts"][index]))
        expected = torch.where(unsafe[index].view(1, 3, 1, 1), rows, kept)
        torch.testing.assert_close(shifts[index].view(2, 3, 77, WIDTH), expected)


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
    _, (_, _, countdown, p_unsafe, unsafe) = call(make(form, part, value, mask_again), threshold=1.0)
    assert torch.isnan(p_unsafe).all() and unsafe.all()
    assert countdown.tolist() == [[2, 2]]


def test_nan_of_the_scale_is_unsafe_and_shows(form):
    _, (_, _, countdown, p_unsafe, unsafe) = call(make(form, "alpha_predictor.net.2.bias", math.nan), threshold=1.0)
    assert torch.isnan(p_unsafe).all() and unsafe.all()
    assert countdown.tolist() == [[2, 2]]


@pytest.mark.parametrize("part", ["classifier.3.bias", "delta_head.scale", "alpha_predictor.net.2.bias"])
def test_nan_of_a_concept_whose_countdown_never_ends_touches_nothing(form, part):
    broken, shifts = make(form, part, math.nan, concepts=2), torch.zeros(2, 4, 77, WIDTH)
    off = torch.tensor([[NEVER] * 2, [0] * 2], dtype=torch.int32)
    inputs, (embeds, moved, countdown, p_unsafe, unsafe) = call(broken, threshold=0.0, shifts=shifts, countdown=off)
    _, alone = call(Guard(broken.concepts[1]), threshold=0.0, shifts=shifts[1:], original_embeds=inputs["original_embeds"])
    torch.testing.assert_close((embeds, moved[1:], p_unsafe[1:], unsafe[1:]), (alone[0], alone[1], alone[3], alone[4]))
    assert torch.equal(moved[0], shifts[0]) and not unsafe[0].any() and (p_unsafe[0] == NOT_CHECKED).all()
    assert countdown[0].tolist() == [NEVER - 1] * 2
    on = torch.zeros(2, 2, dtype=torch.int32)
    _, (_, _, _, p_unsafe, unsafe) = call(broken, threshold=1.0, shifts=shifts, countdown=on)
    assert torch.isnan(p_unsafe[0]).all() and unsafe[0].all()


def test_nan_of_one_image_does_not_touch_another(guard):
    sample = torch.randn(2, 4, 8, 8)
    sample[0, 0, 0, 0] = math.nan
    _, (_, _, _, p_unsafe, unsafe) = call(guard, sample=sample)
    assert torch.isnan(p_unsafe).tolist() == [[True, False]] and unsafe[0, 0]


def test_mask_again_scales_the_shift(form):
    guard = make(form)
    inputs, (plain, *_) = call(guard, threshold=0.0)
    _, (masked, *_) = call(make(form, mask_again=True), threshold=0.0)
    original = inputs["original_embeds"]
    rows = current(inputs).view(2, 2, 77, WIDTH)[1]
    mask = guard.concepts[0].heads(inputs["sample"], inputs["timestep"], rows).mask
    torch.testing.assert_close(masked - original, torch.cat([mask, mask]).unsqueeze(2) * (plain - original), rtol=1e-3, atol=1e-5)


def test_token_masks_are_the_predictors_of_each_concept(form):
    guard, embeds = make(form, concepts=2), torch.randn(3, 77, WIDTH)
    with torch.no_grad():
        masks = TokenMask(*guard.concepts)(embeds)
        for index in range(2):
            assert torch.equal(masks[index], heads(seed=index).eval().mask_predictor(embeds))


def test_each_row_of_the_embeddings_has_a_strength_of_its_own(guard):
    inputs, (both, *_) = call(guard, threshold=0.0)
    _, (conditional, *_) = call(guard, threshold=0.0, alpha_scale=[0.0, 0.625, 1.25, 1.25])
    both, conditional = (embeds.view(2, 2, 77, WIDTH) for embeds in (both, conditional))
    original = inputs["original_embeds"].view(2, 2, 77, WIDTH)
    assert torch.equal(conditional[1], both[1]) and torch.equal(conditional[0, 0], original[0, 0])
    torch.testing.assert_close(conditional[0, 1] - original[0, 1], 0.5 * (both[0, 1] - original[0, 1]), rtol=1e-4, atol=1e-5)


def test_a_delayed_image_keeps_its_embeddings_for_this_call(guard):
    inputs, (embeds, shifts, countdown, _, unsafe) = call(guard, threshold=0.0, delayed=torch.tensor([True, False]))
    _, (at_once, all_shifts, *_) = call(guard, threshold=0.0)
    rows, before, after = (each.view(2, 2, 77, WIDTH) for each in (embeds, current(inputs), at_once))
    assert torch.equal(rows[:, 0], before[:, 0]) and torch.equal(rows[:, 1], after[:, 1])
    assert torch.equal(shifts, all_shifts) and unsafe.all() and countdown.tolist() == [[2, 2]]
