"""Eq. 14: each term is zero for a perfect prediction, and training lowers every one of them."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from saferedir.heads import HeadsOutput, Redirector, RedirectorConfig
from training.heads_training import _descend
from training.losses import DIFFERING, Batch, LossWeights, common_shift, losses, shift_of, weighted

WIDTH, ROWS = 16, 48


@pytest.fixture
def batch():
    draw = torch.Generator().manual_seed(0)
    unsafe = torch.arange(ROWS) % 2 == 0
    original = torch.randn(ROWS, 77, WIDTH, generator=draw)
    direction = torch.nn.functional.normalize(torch.randn(1, 1, WIDTH, generator=draw), dim=2)
    shift = 0.4 * direction * original.norm(dim=2, keepdim=True)
    differs = torch.zeros(ROWS, 77, dtype=torch.bool)
    differs[:, 2] = True
    latents = torch.randn(ROWS, 4, 8, 8, generator=draw) + unsafe.view(-1, 1, 1, 1)
    return Batch(latents, torch.full((ROWS,), 500.0), original, unsafe, original, shift, differs)


def new_heads():
    torch.manual_seed(0)
    return Redirector(RedirectorConfig(embed_dim=WIDTH, encoder_widths=(8, 8, 8)))


def losses_of(heads, batch):
    return losses(heads(batch.latents, batch.timesteps, batch.embeds), batch)


def test_a_perfect_prediction_costs_nothing(batch):
    logits = torch.where(batch.unsafe, 50.0, -50.0).unsqueeze(1) * torch.tensor([[-1.0, 1.0]])
    mask = (batch.differs & batch.unsafe.unsqueeze(1)).float()
    alpha = (batch.target_shift.norm(dim=2) / batch.original.norm(dim=2)).unsqueeze(2)
    output = HeadsOutput(logits, 3 * batch.target_shift, mask, alpha)
    for name, term in losses(output, batch).items():
        assert term < 1e-5, name
    torch.testing.assert_close(shift_of(output, batch.original), batch.target_shift)


def test_a_common_shift_has_one_direction_and_each_tokens_own_length():
    draw = torch.Generator().manual_seed(1)
    original, target = torch.randn(2, 77, WIDTH, generator=draw), torch.randn(2, 77, WIDTH, generator=draw)
    differs = torch.zeros(2, 77, dtype=torch.bool)
    differs[0, 3] = True
    shift = common_shift(target, original, differs)
    for row in range(2):
        directions = torch.nn.functional.normalize(shift[row][shift[row].norm(dim=1) > 1e-4], dim=1)
        torch.testing.assert_close(directions, directions[:1].expand_as(directions))
        kept = (target[row] * directions[0]).sum(dim=1)
        torch.testing.assert_close(shift[row].norm(dim=1), kept.clamp(min=0))
    relative = target / original.norm(dim=2, keepdim=True)
    unit = torch.nn.functional.normalize
    of_all = unit(relative.sum(dim=1), dim=1)
    first = unit(DIFFERING * unit(relative[0, 3], dim=0) + (1 - DIFFERING) * of_all[0], dim=0)
    for direction, row in ((first, 0), (of_all[1], 1)):  # the second prompt has no token that differs
        longest = shift[row][shift[row].norm(dim=1).argmax()]
        torch.testing.assert_close(unit(longest, dim=0), direction)
    torch.testing.assert_close(common_shift(shift, original, torch.ones_like(differs)), shift)
    assert not common_shift(torch.zeros_like(target), original, differs).any()


def test_terms_are_the_five_weights(batch):
    terms = losses_of(new_heads().eval(), batch)
    assert list(terms) == [field.name for field in dataclasses.fields(LossWeights)]
    weights = LossWeights(1, 2, 3, 4, 5)
    expected = sum(factor * term for factor, term in zip((1, 2, 3, 4, 5), terms.values(), strict=True))
    torch.testing.assert_close(weighted(terms, weights), expected)


def test_training_lowers_every_term(batch):
    heads = new_heads()
    before = {name: term.item() for name, term in losses_of(heads, batch).items()}
    optimiser = torch.optim.AdamW(heads.parameters(), lr=3e-3)
    for _ in range(60):
        optimiser.zero_grad()
        weighted(losses_of(heads, batch), LossWeights()).backward()
        optimiser.step()
    after = {name: term.item() for name, term in losses_of(heads, batch).items()}
    assert all(after[name] < 0.7 * before[name] for name in before), (before, after)
    found = heads.eval()(batch.latents, batch.timesteps, batch.embeds).logits.argmax(1).bool()
    assert (found == batch.unsafe).all()


def test_in_bfloat16_heads_take_about_the_same_step(batch):
    steps = []
    for precision in ("float32", "bfloat16"):
        heads = new_heads().eval()  # without dropout
        before = torch.nn.utils.parameters_to_vector(heads.parameters()).detach()
        _descend(heads, batch, torch.optim.SGD(heads.parameters(), lr=0.01), 0, precision)
        steps.append(torch.nn.utils.parameters_to_vector(heads.parameters()).detach() - before)
        assert all(weight.dtype == torch.float32 for weight in heads.parameters())
    assert not torch.equal(*steps)
    assert torch.nn.functional.cosine_similarity(*steps, dim=0) > 0.95
