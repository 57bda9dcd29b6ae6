"""The text encoder learns the facts of scenes, from any end token, and then stays as it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from demo import text_encoder
from demo.generator import Generator
from demo.scene import Scene, Thing, training_scenes
from demo.text_encoder import FACTS, MISSING, facts, new_text_encoder, train_text_encoder
from demo.trainer import TrainingSetup
from demo.vocabulary import new_tokenizer, token_ids


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return new_tokenizer(tmp_path_factory.mktemp("vocabulary"))


def test_facts_of_a_scene():
    scene = Scene("star", "red", "small", "at the top of", "mint", burning=True, style="dots")
    assert [values[place] for values, place in zip(FACTS.values(), facts(scene), strict=True) if place != MISSING] == [
        "star", "red", True, "small", "at the top of", "mint", "dots", False,
    ]  # fmt: skip
    two = facts(Scene("star", "red", second=Thing("cross", "blue", True)))
    assert two[-3:] == [FACTS["shape"].index("cross"), FACTS["colour"].index("blue"), 1] and MISSING not in two
    for scene in training_scenes(np.random.default_rng(0), 50):
        assert all(place == MISSING or 0 <= place < len(values) for place, values in zip(facts(scene), FACTS.values(), strict=True))


def test_training_goes_on_and_leaves_an_encoder_that_no_unet_changes(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(text_encoder, "SETUP", TrainingSetup(steps=3, learning_rate=1e-3))
    encoder = train_text_encoder(tokenizer, tmp_path)
    again = train_text_encoder(tokenizer, tmp_path)  # finished: read from its checkpoint
    assert all((one == other).all() for one, other in zip(encoder.parameters(), again.parameters(), strict=True))
    generator = Generator(encoder)
    predicted = generator(torch.randn(1, 4, 16, 16), torch.tensor([500]), token_ids(tokenizer, ["a red star"]))
    predicted.mean().backward()
    assert all(parameter.grad is None for parameter in generator.text_encoder.parameters())
    assert any(parameter.grad is not None for parameter in generator.unet.parameters())


def test_the_facts_are_learnt(tokenizer):
    torch.manual_seed(0)
    reader = text_encoder.CaptionReader(len(tokenizer))
    ids = token_ids(tokenizer, ["a red star", "a blue star", "a burning red star", "a burning blue star"])
    places, optimiser = torch.full((4,), 76), torch.optim.Adam(reader.parameters(), 3e-3)
    for _ in range(25):
        logits = dict(zip(FACTS, reader(ids, places), strict=True))
        wanted = {"colour": [0, 2, 0, 2], "burning": [0, 0, 1, 1]}
        loss = sum(torch.nn.functional.cross_entropy(logits[name], torch.tensor(values)) for name, values in wanted.items())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert all(logits[name].argmax(1).tolist() == values for name, values in wanted.items())
    assert new_text_encoder(len(tokenizer)).config.hidden_size == text_encoder.WIDTH
