"""Each ablation switches off the part that it names, and nothing else."""

from __future__ import annotations

import pytest
import torch

from demo import ablations
from saferedir.heads import Redirector, RedirectorConfig


@pytest.fixture
def heads():
    torch.manual_seed(0)
    return Redirector(RedirectorConfig(embed_dim=16, encoder_widths=(8, 8, 8))).eval()


@torch.no_grad()
def outputs(heads, seeds=(0, 0)):
    """Of latents and of a prompt that each follow from a seed."""
    latents, prompt = (torch.Generator().manual_seed(seed) for seed in seeds)
    return heads(torch.randn(2, 4, 8, 8, generator=latents), torch.tensor(500.0), torch.randn(2, 77, 16, generator=prompt))


def ablated(heads, change):
    with torch.no_grad():
        change(heads)
    return heads


def test_without_mask_and_alpha(heads):
    before = outputs(heads)
    after = outputs(ablated(heads, ablations.without_mask))
    assert (after.mask == 1).all() and (after.logits == before.logits).all() and (after.alpha == before.alpha).all()
    assert (outputs(ablated(heads, ablations.without_alpha)).alpha == 1).all()


def test_a_random_direction_is_another_one(heads):
    before = outputs(heads)
    after = outputs(ablated(heads, ablations.random_direction))
    assert torch.nn.functional.cosine_similarity(before.delta, after.delta, dim=2).abs().max() < 0.9
    assert (after.logits == before.logits).all()


def test_a_classifier_without_prompt_does_not_depend_on_it(heads):
    ablated(heads, ablations.classifier_without_prompt)
    assert (outputs(heads, (0, 0)).logits == outputs(heads, (0, 1)).logits).all()
    assert (outputs(heads, (0, 0)).logits != outputs(heads, (1, 0)).logits).any()


def test_a_classifier_without_latents_depends_on_the_prompt(heads):
    ablated(heads, ablations.classifier_without_latents)
    features = slice(0, heads.config.latent_features)
    assert (heads.classifier[0].weight[:, features] == 0).all()
    assert (outputs(heads, (0, 0)).logits != outputs(heads, (0, 1)).logits).any()
