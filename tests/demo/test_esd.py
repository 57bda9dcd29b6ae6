"""Erasing a concept from the demo's UNet changes its cross-attention alone, toward the paper's target."""

from __future__ import annotations

import torch

from demo import esd
from demo.esd import GUIDANCE, TRAINED, erase
from demo.vocabulary import token_ids


def test_the_prediction_for_a_burning_thing_moves_away_from_fire(diffusers_pipeline, monkeypatch):
    monkeypatch.setattr(esd, "SAMPLED", 2)
    unet, tensors = diffusers_pipeline.unet, erase(diffusers_pipeline, "fire", 15)
    assert {*tensors} == {name for name in unet.state_dict() if TRAINED in name}
    with torch.no_grad():
        texts = ["a blue square", "a red star", "a burning blue square", "a red star in flames"]
        ids = token_ids(diffusers_pipeline.tokenizer, texts)
        embeds = diffusers_pipeline.text_encoder(ids).last_hidden_state
        noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1)).expand(4, -1, -1, -1)
        anchor, before = unet(noise, 800, embeds).sample.chunk(2)
        target = anchor - GUIDANCE * (before - anchor)
        weights = {name: parameter.clone() for name, parameter in unet.state_dict().items()}
        try:
            unet.load_state_dict({**weights, **tensors})
            after = unet(noise[2:], 800, embeds[2:]).sample
        finally:
            unet.load_state_dict(weights)
        assert (after - target).norm() < 0.9 * (before - target).norm()
