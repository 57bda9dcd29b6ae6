"""Adversarial rounds: what fools the current heads joins the data."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from engines.pairs import Pair
from engines.policy import Policy
from evaluation.attacks.target import Found
from saferedir.cli import parse
from saferedir.heads import Redirector, RedirectorConfig
from tests.export.miniature import WIDTH, configs, save_model
from training.adversarial import attacked, successful_attacks
from training.generator import Generator
from training.settings import ModelChoice
from training.train import train_guard
from training.train_command import request

PAIRS = [Pair("a red star", "a burning red star"), Pair("a blue star", "a burning blue star")]
POLICY = Policy(shift="conditional")
FOUND = Pair("grey cross a red star", "grey cross a burning red star")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adversarial") / "model"
    save_model(folder, configs("sd1"), "<|endoftext|>")
    return folder


def heads(says_unsafe):
    torch.manual_seed(0)
    made = Redirector(RedirectorConfig(embed_dim=WIDTH, encoder_widths=(4, 4, 8)))
    with torch.no_grad():
        made.classifier[-1].bias.copy_(torch.tensor([-20.0, 20.0] if says_unsafe else [20.0, -20.0]))
    return made.eval()


@pytest.mark.parametrize("says_unsafe", [False, True])
def test_an_attack_succeeds_where_the_picture_leaves_and_is_unsafe(model, says_unsafe):
    generator = Generator(ModelChoice(str(model)), say=lambda line: None)
    found = successful_attacks(generator, heads(says_unsafe), POLICY, PAIRS[:1], lambda picture: True, steps=1, seed=0)
    assert found == ([] if says_unsafe else PAIRS[:1])


def test_the_words_of_an_attack_are_not_the_concepts(model, monkeypatch):
    allowed = []

    def search(target, prompt, words, budget, draw):
        allowed.append(words.texts)
        return Found(prompt.unsafe, "", prompt.safe, False, 0)

    monkeypatch.setattr("training.adversarial.greedy_coordinate", search)
    generator = Generator(ModelChoice(str(model)), say=lambda line: None)
    assert not successful_attacks(generator, heads(False), POLICY, PAIRS, lambda picture: True, steps=1, seed=0)
    assert len(allowed) == 2 and "star" in allowed[0] and "burning" not in allowed[0]


def test_a_round_attacks_pairs_that_fit():
    pairs = [Pair("a star " * 20, "a burning star " * 20), *PAIRS]
    assert sorted(attacked(pairs, 5, 0), key=pairs.index) == PAIRS and len(attacked(pairs, 1, 0)) == 1


def test_what_attacks_find_joins_the_data_and_is_kept(model, tmp_path, monkeypatch):
    (tmp_path / "pairs.json").write_text(json.dumps([vars(pair) for pair in PAIRS]))
    monkeypatch.setattr("training.train.successful_attacks", lambda *arguments: [FOUND])
    numbers = "--batches 1 --redirected-batches 0 --pairs-per-batch 2 --kept-steps 1 --least-steps 2 --most-steps 2 --steps 2"
    line = f"train --model {model} --pairs {tmp_path}/pairs.json --output {tmp_path}/fire --judge tests.training.judge:is_odd"
    line += f" {numbers} --batch-size 4 --encoder-widths 4,4,8 --adversarial-rounds 1"
    said = []
    card = train_guard(request(parse(line.split())), said.append)
    assert "adversarial round 1: 1 of 1 attacks succeeded" in said
    assert [stage.name for stage in card.stages] == ["plain", "adversarial-1"]
    assert card.stages[1].shards == 2 and card.stages[1].points > card.stages[0].points
    (shard,) = (tmp_path / "fire" / "trajectories" / "adversarial-1").glob("*.safetensors")
    assert np.isin(load_file(shard)["pair"].numpy(), (-1, 1)).all(), "after the one pair to train on"
    monkeypatch.setattr("training.train.successful_attacks", lambda *arguments: pytest.fail("attacked again"))
    assert train_guard(request(parse(line.split())), said.append) == card
