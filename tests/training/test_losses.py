"""Eq. 14: each term is zero for a perfect prediction, and training on records lowers every one of them."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from saferedir.heads import HeadsOutput, Redirector, RedirectorConfig
from training.losses import LossWeights, Records, classifier_figures, losses, shift_of, weighted

WIDTH, PAIRS, ROWS = 16, 3, 48


@pytest.fixture
def records():
    draw = torch.Generator().manual_seed(0)
    unsafe_embeds = torch.randn(PAIRS, 77, WIDTH, generator=draw)
    direction = torch.nn.functional.normalize(torch.randn(PAIRS, 1, WIDTH, generator=draw), dim=2)
    shift = 0.4 * direction * unsafe_embeds.norm(dim=2, keepdim=True)
    unsafe = torch.arange(ROWS) % 2 == 0
    latents = torch.randn(ROWS, 4, 8, 8, generator=draw) + unsafe.view(-1, 1, 1, 1)
    differs = torch.zeros(PAIRS, 77, dtype=torch.bool)
    differs[:, 2] = True
    return Records(
        latents,
        torch.full((ROWS,), 500.0),
        unsafe,
        torch.arange(ROWS) % PAIRS,
        unsafe_embeds + shift,
        unsafe_embeds,
        shift,
        differs,
    )


def test_a_perfect_prediction_costs_nothing(records):
    rows = torch.arange(ROWS)
    target = records.target_shift[records.pair]
    logits = torch.where(records.unsafe, 50.0, -50.0).unsqueeze(1) * torch.tensor([[-1.0, 1.0]])
    mask = (records.differs[records.pair] & records.unsafe.unsqueeze(1)).float()
    alpha = (target.norm(dim=2) / records.unsafe_embeds[records.pair].norm(dim=2)).unsqueeze(2)
    output = HeadsOutput(logits, 3 * target, mask, alpha)
    for name, term in losses(output, records, rows).items():
        assert term < 1e-5, name
    torch.testing.assert_close(shift_of(output, records.unsafe_embeds[records.pair]), target)


def test_terms_are_the_five_weights(records):
    torch.manual_seed(0)
    model = Redirector(RedirectorConfig(embed_dim=WIDTH, encoder_widths=(8, 8, 8))).eval()
    rows = torch.arange(ROWS)
    terms = losses(model(records.latents, records.timesteps, records.embeds(rows)), records, rows)
    assert list(terms) == [field.name for field in dataclasses.fields(LossWeights)]
    weights = LossWeights(1, 2, 3, 4, 5)
    expected = sum(factor * term for factor, term in zip((1, 2, 3, 4, 5), terms.values(), strict=True))
    torch.testing.assert_close(weighted(terms, weights), expected)


def test_training_lowers_every_term(records):
    torch.manual_seed(0)
    model, rows = Redirector(RedirectorConfig(embed_dim=WIDTH, encoder_widths=(8, 8, 8))), torch.arange(ROWS)

    def terms():
        return losses(model(records.latents, records.timesteps, records.embeds(rows)), records, rows)

    before = {name: term.item() for name, term in terms().items()}
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimiser.zero_grad()
        weighted(terms(), LossWeights()).backward()
        optimiser.step()
    after = {name: term.item() for name, term in terms().items()}
    assert all(after[name] < 0.7 * before[name] for name in before), (before, after)
    figures = classifier_figures(model.eval(), records, rows)
    assert figures["recall"] == figures["precision"] == 1 and figures["false_positive_rate"] == 0
