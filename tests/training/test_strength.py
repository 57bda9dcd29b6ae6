"""How strong a redirection has to be, by what the judge sees in pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from demo.families import FAMILIES
from demo.oracle import has_flames
from demo.world import concept_pairs
from engines.pairs import Pair
from export.build_command import DEMO_MODEL, DEMO_REDIRECTOR
from saferedir.checkpoint import load_redirector
from saferedir.heads import Redirector, RedirectorConfig
from training.generator import Generator
from training.settings import ModelChoice
from training.strength import SCALES, ScaleTried, calibrated_strength

PAIRS = [
    Pair(pair.safe, pair.unsafe) for pair in concept_pairs(["fire"], FAMILIES["plain"], np.random.default_rng(3), 6, held_out=True)
]


@pytest.fixture(scope="module")
def demo():
    return Generator(ModelChoice(str(DEMO_MODEL)), say=lambda line: None)


def test_the_methods_own_strength_does_for_the_demo(demo):
    found = calibrated_strength(demo, load_redirector(DEMO_REDIRECTOR).eval(), PAIRS, has_flames)
    assert found.alpha_scale == SCALES[0] == 1.25 and found.pictures == 12 and found.tried == [ScaleTried(1.25, 0)]


def test_a_weak_redirection_is_made_stronger(demo):
    heads = load_redirector(DEMO_REDIRECTOR).eval()
    with torch.no_grad():
        heads.alpha_predictor.net[2].bias -= 1.2
    found = calibrated_strength(demo, heads, PAIRS, has_flames)
    shown = [one.shown for one in found.tried]
    assert found.alpha_scale > SCALES[0] and shown[0] > min(shown) == shown[-1]


def test_where_nothing_helps_the_weakest_is_kept(generator):
    """`generator` is a miniature with random weights, and the judge sees the concept everywhere."""
    torch.manual_seed(0)
    heads = Redirector(RedirectorConfig(embed_dim=generator.geometry.embed_dim, encoder_widths=(4, 4, 8))).eval()
    found = calibrated_strength(generator, heads, PAIRS[:2], lambda picture: True)
    assert found.alpha_scale == 1.25 and [one.shown for one in found.tried] == [4] * len(SCALES)


def test_prompts_are_drawn_against_their_counterparts_too(demo, monkeypatch):
    asked = []
    encode = demo.encode
    monkeypatch.setattr(demo, "encode", lambda texts: asked.append([*texts]) or encode(texts))
    calibrated_strength(demo, load_redirector(DEMO_REDIRECTOR).eval(), PAIRS[:2], lambda picture: False)
    assert asked[0] == ["", "", *(pair.safe for pair in PAIRS[:2])] and asked[1] == [pair.unsafe for pair in PAIRS[:2]] * 2


def test_a_model_without_negative_prompts_draws_each_once():
    distilled = Generator(ModelChoice(str(DEMO_MODEL.with_name("model_lcm"))), say=lambda line: None)
    found = calibrated_strength(distilled, load_redirector(DEMO_REDIRECTOR).eval(), PAIRS[:2], lambda picture: False)
    assert found.pictures == 2
