"""Searches follow their gradients, spend their budget and no more, repeat themselves, and write what a tokenizer reads back."""

from __future__ import annotations

import copy
import dataclasses
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from engines.errors import InputError
from engines.policy import Policy
from evaluation.attacks.budget import Budget
from evaluation.attacks.embedding import STRIDE, descended, embedding_search
from evaluation.attacks.filler import filler_search
from evaluation.attacks.greedy import greedy_coordinate, word_gradient
from evaluation.attacks.negative import negative_prompts
from evaluation.attacks.objectives import SLACK, Evasion, Objective, TargetNoise
from evaluation.attacks.phrasing import FAMILIES, Material, Phrasing, changed
from evaluation.attacks.registry import ATTACKS, Means, search
from evaluation.attacks.target import Found, Prompt
from evaluation.attacks.wording import wordings
from evaluation.attacks.words import Draft, Words
from evaluation.twin import Twin
from tests.evaluation.tiny_twin import PROMPT, tiny_target, tiny_twin

BUDGET = Budget(tokens=2, steps=2, candidates=4, rows=2)
MADE_OF = Material(["red", "small", "top"], ["a green star"])
OBJECTIVES = pytest.mark.parametrize("kind", [Evasion, TargetNoise])


def words() -> Words:
    return Words.of(tiny_twin())


def seeing(number: int):
    """A judge that sees the concept in picture `number` and later ones."""
    seen: list[int] = []

    def judge(picture: np.ndarray) -> bool:
        seen.append(0)
        return len(seen) >= number

    return judge


@OBJECTIVES
def test_the_gradient_by_words_is_the_losses_slope(kind):
    """Central differences of the loss by one-hot words, whose embeddings are mixed."""
    twin, objective = tiny_twin(), kind(tiny_target(), PROMPT, BUDGET)
    draft, chosen = Draft(twin, words(), PROMPT.unsafe, 1, 1), torch.tensor([[3, 5]])
    gradient = word_gradient(objective, draft, chosen)
    assert gradient.shape == (2, len(draft.words.texts)) and gradient.abs().max() > 0
    ids, step = draft.ids(chosen), 0.004
    for place, word in ((0, 20), (1, 30)):
        slopes = []
        for sign in (1, -1):
            tokens = twin.token_embeddings[ids].clone()
            tokens[0, draft.places[place]] += sign * step * twin.token_embeddings[draft.words.ids[word]]
            slopes.append(objective.loss(twin.encode_tokens(ids, tokens)).item())
        slope = (slopes[0] - slopes[1]) / (2 * step)
        assert slope == pytest.approx(gradient[place, word].item(), rel=0.05, abs=2e-3 * gradient.abs().max().item())


@OBJECTIVES
def test_losses_of_a_batch_are_those_of_each_prompt(kind):
    objective: Objective = kind(tiny_target(), PROMPT, BUDGET)
    embeds = tiny_twin().embeds(["a star", "a burning star", PROMPT.unsafe])
    with torch.no_grad():
        for loss in (objective.loss, objective.quick):
            torch.testing.assert_close(loss(embeds), torch.cat([loss(each[None]) for each in embeds]), rtol=1e-4, atol=1e-5)


def test_evasion_is_made_of_margins_and_of_what_the_unet_predicts():
    objective, twin = Evasion(tiny_target(), PROMPT, BUDGET), tiny_twin()
    unsafe, safe = twin.embeds([PROMPT.unsafe]), twin.embeds([PROMPT.safe])
    with torch.no_grad():
        margins = twin.margins(objective._joints, unsafe)
        torch.testing.assert_close(objective.quick(unsafe), torch.relu(margins + SLACK).mean(dim=2)[0])
        drift = [(objective.loss(each) - objective.quick(each)).item() for each in (unsafe, safe)]
    assert drift == pytest.approx([0, 1], abs=1e-3)
    assert objective.promising(unsafe) == (objective.quick(unsafe).item() <= SLACK)


def test_target_noise_is_least_for_a_perfect_denoiser(monkeypatch):
    objective = TargetNoise(tiny_target(), PROMPT, BUDGET)
    embeds = tiny_twin().embeds([PROMPT.unsafe])
    assert objective.loss(embeds).item() > 0.1
    answers = {float(timestep): noise for timestep, noise in zip(objective._rows.timesteps, objective._wanted, strict=True)}
    monkeypatch.setattr(
        tiny_twin().unet, "forward", lambda sample, timestep, embeds: torch.stack([answers[float(each)] for each in timestep])
    )
    assert objective.loss(embeds).item() == 0


def other_generator() -> Twin:
    """The tiny twin with another UNet."""
    unet = copy.deepcopy(tiny_twin().unet)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.mul_(0.9)
    return dataclasses.replace(tiny_twin(), unet=unet)


def test_without_the_guard_evasion_is_drift_alone():
    objective = Evasion(dataclasses.replace(tiny_target(), guarded=False), PROMPT, BUDGET)
    unsafe, safe = tiny_twin().embeds([PROMPT.unsafe]), tiny_twin().embeds([PROMPT.safe])
    with torch.no_grad():
        for loss in (objective.loss, objective.quick):
            assert [loss(each).item() for each in (unsafe, safe)] == pytest.approx([0, 1], abs=1e-3)
    assert objective.promising(safe)


def test_without_the_guard_nothing_redirects_the_embedding(monkeypatch):
    monkeypatch.setattr(Twin, "redirected", lambda *given: pytest.fail("the guard was asked"))
    target = dataclasses.replace(tiny_target(), guarded=False)
    TargetNoise(target, PROMPT, BUDGET).loss(tiny_twin().embeds([PROMPT.unsafe]))
    assert target.run(PROMPT.unsafe, PROMPT.seed).withheld is None


@OBJECTIVES
def test_what_is_wanted_is_what_the_original_generator_does(kind):
    """Its own prediction is then the goal of the other one, and its picture."""
    original = other_generator()
    target = dataclasses.replace(tiny_target(), original=original)
    swapped = dataclasses.replace(target, twin=original)
    embeds = tiny_twin().embeds([PROMPT.unsafe])
    with torch.no_grad():
        far, near = (kind(each, PROMPT, BUDGET).loss(embeds).item() for each in (target, swapped))
        assert near == pytest.approx(
            kind(dataclasses.replace(swapped, original=None), PROMPT, BUDGET).loss(embeds).item(), rel=1e-5
        )
    assert far != pytest.approx(near, rel=1e-3)
    assert torch.equal(target.wanted_run(PROMPT.unsafe, 3).final, swapped.unguarded_run(PROMPT.unsafe, 3).final)


def test_a_search_repeats_itself_and_its_text_is_read_back():
    found = [greedy_coordinate(tiny_target(), PROMPT, words(), BUDGET, Random(seed)) for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]
    text, safe = found[0].text, found[0].safe
    assert text.startswith(f"{PROMPT.unsafe} ") and safe == text.replace("burning ", "")
    ids = tiny_twin().tokenizer(text, add_special_tokens=False).input_ids
    assert len(ids) == 4 + BUDGET.tokens and set(ids[4:]) <= set(words().ids.tolist())


@pytest.mark.parametrize("name", ["filler", "greedy", "prefix", "embedding"])
def test_a_budget_is_spent_and_kept(name):
    budget = dataclasses.replace(BUDGET, restarts=1 if name == "embedding" else 2)
    (found,) = search(name, tiny_target(), PROMPT, Means(words(), MADE_OF, budget), "0")
    assert not found.fooled and found.steps == budget.steps * budget.restarts
    (stopped,) = search(name, tiny_target(), PROMPT, Means(words(), MADE_OF, dataclasses.replace(budget, seconds=1e-9)), "0")
    assert not stopped.fooled and stopped.steps == 0


def test_a_search_ends_at_its_first_success():
    lenient = dataclasses.replace(tiny_twin(), policies=[Policy(threshold=0.999)])
    plain, second = (dataclasses.replace(tiny_target(seeing(number)), twin=lenient) for number in (1, 2))
    assert greedy_coordinate(plain, PROMPT, words(), BUDGET, Random(0)) == Found(PROMPT.unsafe, "", PROMPT.safe, True, 0)
    (found,) = search("prefix", second, PROMPT, Means(words(), MADE_OF, BUDGET), "0")
    assert found.fooled and found.steps == 1 and found.text.endswith(f" {PROMPT.unsafe}")


def test_only_words_of_one_token_and_prompts_that_fit():
    listed = Words.of(tiny_twin(), ["star", "extraordinary", "Star", "blue"])
    assert [text.lower() for text in listed.texts] == ["star", "blue"] and len(listed.ids) == 2
    with pytest.raises(InputError, match="words: expected at least one that the tokenizer reads as one token, found none of 1"):
        Words.of(tiny_twin(), ["extraordinary"])
    with pytest.raises(InputError, match="tokens: expected a prompt of at most 75 tokens with what is added, found 76"):
        Draft(tiny_twin(), words(), "star " * 70, 3, 3)


def test_drafts_that_would_be_read_otherwise_are_told():
    real = words()
    split = Words(("star", "st", "ar"), torch.tensor([int(real.ids[real.texts.index("star")]), 1, 2]))
    draft = Draft(tiny_twin(), split, "a square", 1, 1)
    assert draft.survives(torch.tensor([[0, 0], [0, 1], [2, 0]])).tolist() == [True, False, False]
    assert draft.text([0, 0]) == "star a square star" and draft.text([0, 0], "a cross") == "star a cross star"


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_says_both_prompts_in_the_same_way(family):
    phrasing = FAMILIES[family](Random(4), MADE_OF)
    assert phrasing == FAMILIES[family](Random(4), MADE_OF)
    unsafe, safe = phrasing.text(PROMPT.unsafe), phrasing.text("XX")
    assert unsafe != PROMPT.unsafe
    if family != "order":
        assert unsafe.upper() == safe.replace("XX", PROMPT.unsafe).upper()
    else:
        assert sorted(unsafe.split()) == sorted(PROMPT.unsafe.split())


@pytest.mark.parametrize(
    "unsafe, safe, again",
    [
        ("a star in Flames", "a star", "in flames in flames in flames a star in Flames"),
        ("a star", None, "a star a star a star a star"),
        ("a star", "a star, not on fire", "a star a star a star a star"),
    ],
)
def test_a_wording_says_the_concept_again(unsafe, safe, again):
    found = wordings(Prompt(unsafe, safe, 0), MADE_OF, Random(0))
    assert found[-1] == Found(again, "", safe, None, 0, "said again")
    assert [one.variant for one in found] == [*FAMILIES, "said again"]


def test_wordings_in_words():
    said = Phrasing(opening="a picture of", other="a green star", link=". ", before=("red",), after=("top", "top"))
    assert said.text("a burning square") == "red a green star. a picture of a burning square top top"
    assert Phrasing(turn=0.5, upper=True).text("a burning blue square") == "BLUE SQUARE A BURNING"
    assert Material(["red"], []).other(Random(0)) == "a red red"


def test_neighbours_differ_and_stay_within_their_words():
    phrasing, draw = Phrasing(), Random(0)
    seen = set()
    for _ in range(200):
        phrasing = changed(phrasing, draw, MADE_OF, 3)
        assert len(phrasing.before) <= 3 and len(phrasing.after) <= 3
        seen.add(phrasing)
    assert len(seen) > 50


def test_filler_search_keeps_the_best_it_saw():
    found = filler_search(tiny_target(), PROMPT, MADE_OF, BUDGET, Random(0))
    assert found == filler_search(tiny_target(), PROMPT, MADE_OF, BUDGET, Random(0))
    assert found.text and found.safe and "burning" not in found.safe.lower()


def test_negative_prompts_begin_with_the_safe_twin():
    found = negative_prompts(tiny_target(), PROMPT, MADE_OF, BUDGET, Random(0))
    assert [each.variant for each in found] == ["counterpart", "searched"]
    assert {each.text for each in found} == {PROMPT.unsafe} and found[0].negative == PROMPT.safe
    assert found[1].negative and {each.safe for each in found} == {None}
    alone = negative_prompts(tiny_target(), Prompt(PROMPT.unsafe, None, 3), MADE_OF, BUDGET, Random(0))
    assert [each.variant for each in alone] == ["searched"]


def test_embeddings_descend_within_their_radius():
    original = torch.randn(1, 77, 8, generator=torch.Generator().manual_seed(0))
    radius, shift = torch.tensor(0.1), torch.zeros_like(original)
    goal = original + torch.tensor([0.02, -0.02, 0.5, -0.5, 0.02, -0.02, 0.5, -0.5])
    objective = SimpleNamespace(loss=lambda embeds: (embeds - goal).square().sum(dim=(1, 2)))
    for _ in range(8):
        shift = descended(objective, original, shift, radius)
    near = torch.tensor([0.02, -0.02, 0.1, -0.1, 0.02, -0.02, 0.1, -0.1]).expand_as(shift)
    assert shift.abs().max() <= radius
    torch.testing.assert_close(shift, near, atol=STRIDE * 0.1, rtol=0)
    torch.testing.assert_close(shift[..., 2:4], near[..., 2:4])


def test_an_embedding_is_no_text():
    assert embedding_search(tiny_target(), PROMPT, BUDGET) == Found("", "", None, False, BUDGET.steps)


@pytest.mark.parametrize(("change", "message"), [({"tokens": 0}, "tokens"), ({"steps": 1.5}, "steps"), ({"seconds": 0}, "seconds")])
def test_budgets_are_checked(change, message):
    with pytest.raises(InputError, match=message):
        Budget(**change)


def test_every_attack_says_what_it_needs():
    assert all(attack.needs for attack in ATTACKS.values())
