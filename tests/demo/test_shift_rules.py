"""Rules that combine shifts: one acts at a time, or the sum keeps the longest one's length."""

from __future__ import annotations

import pytest
import torch

from demo.shift_rules import Renormalised, StrongestFirst
from saferedir.guard import Concept, Guard
from tests.random_heads import SMALL, random_heads


def call(rule: type[Guard], threshold: float, known: float = 0.0) -> tuple[torch.Tensor, ...]:
    """Two concepts of different heads on one picture, with shifts of `known` before."""
    heads = [random_heads(SMALL) for _ in range(2)]
    with torch.no_grad():
        for parameter in heads[1].parameters():
            parameter.mul_(1.1)
        guard, draw = rule(*map(Concept, heads)), torch.Generator().manual_seed(1)
        return guard(
            sample=torch.randn(1, 4, 8, 8, generator=draw),
            timestep=torch.tensor([500.0]),
            original_embeds=torch.ones(2, 77, SMALL.embed_dim),
            shifts=torch.full((2, 2, 77, SMALL.embed_dim), known),
            countdown=torch.zeros(2, 1, dtype=torch.int32),
            alpha_scale=torch.ones(2, 2),
            threshold=torch.full((2, 1), threshold),
            replace_steps=torch.full((2, 1), 2, dtype=torch.int32),
            delayed=torch.tensor([False]),
        )


def test_the_strongest_acts_and_the_other_is_checked_at_the_next_step():
    every = call(Guard, 0.0)
    embeds, shifts, countdown, p_unsafe, unsafe = call(StrongestFirst, 0.0)
    first = int(every[3].argmax())
    assert every[4].all() and unsafe[first] and not unsafe[1 - first]
    assert countdown[first] == 2 and countdown[1 - first] == 0
    assert torch.equal(shifts[first], every[1][first]) and not shifts[1 - first].any()
    assert torch.equal(embeds, 1 + shifts[first]) and p_unsafe[1 - first] == 0.0  # what is said is not above the threshold


@pytest.mark.parametrize("rule", [StrongestFirst, Renormalised])
def test_where_nothing_is_unsafe_the_rules_are_the_guards(rule):
    for found, expected in zip(call(rule, 0.999), call(Guard, 0.999), strict=True):
        assert torch.equal(found, expected)


def test_the_sum_is_as_long_as_the_longest_and_points_where_it_did():
    embeds, shifts, *_ = call(Renormalised, 0.0)
    total, summed = embeds - 1, shifts.sum(dim=0).reshape(embeds.shape)
    longest = torch.linalg.vector_norm(shifts, dim=-1).amax(dim=0).reshape(2, 77)
    wanted = torch.minimum(longest, torch.linalg.vector_norm(summed, dim=-1))
    torch.testing.assert_close(torch.linalg.vector_norm(total, dim=-1), wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.cosine_similarity(total, summed, dim=-1), torch.ones(2, 77), rtol=1e-4, atol=1e-4)
    once = call(Renormalised, 0.999, known=0.25)[0] - 1  # two equal shifts: cut to one of them
    torch.testing.assert_close(once, torch.full_like(once, 0.25))
