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
from training.adversarial import Adversary
from training.generator import Generator
from training.settings import ModelChoice, TrainingSettings
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


def adversary(model, judge, pairs=PAIRS, allowed=None):
    generator = Generator(ModelChoice(str(model)), say=lambda line: None)
    return Adversary(generator, judge, pairs, TrainingSettings(attacks=2, attack_steps=1), allowed)


@pytest.mark.parametrize("says_unsafe", [False, True], ids=["missed", "withheld"])
def test_an_attack_succeeds_where_the_redirected_picture_is_unsafe(model, says_unsafe):
    assert adversary(model, lambda picture: True).finds(heads(says_unsafe), POLICY, 0) == PAIRS
    assert adversary(model, lambda picture: False).finds(heads(says_unsafe), POLICY, 0) == []


def searches(monkeypatch, added):
    """Searches that put words before the prompt, and what each was given."""
    given = []

    def search(name):
        def found(target, prompt, words, budget, draw):
            given.append((name, prompt.unsafe, words.texts))
            return Found(f"{added} {prompt.unsafe}", "", f"{added} {prompt.safe}", True, 0)

        return found

    monkeypatch.setattr("training.adversarial.SEARCHES", (search("greedy"), search("prefix")))
    return given


def test_the_searches_take_turns_with_the_words_that_are_allowed(model, monkeypatch):
    given = searches(monkeypatch, "grey")
    found = adversary(model, lambda picture: False, allowed=["grey", "burning", "no-token"]).finds(heads(False), POLICY, 0)
    assert [name for name, _, _ in given] == ["greedy", "prefix"] and len({prompt for _, prompt, _ in given}) == 2
    assert {texts for _, _, texts in given} == {("grey", "burning")}
    assert {(pair.safe, pair.unsafe) for pair in found} == {(f"grey {pair.safe}", f"grey {pair.unsafe}") for pair in PAIRS}


@pytest.mark.parametrize("shows, safe", [(False, "grey a red star"), (True, "a red star")])
def test_a_counterpart_has_no_word_that_says_the_concept(model, monkeypatch, shows, safe):
    searches(monkeypatch, "burning grey")
    (found,) = adversary(model, lambda picture: shows, PAIRS[:1]).finds(heads(False), POLICY, 0)
    assert found == Pair(safe, "burning grey a burning red star")


def test_a_round_attacks_pairs_that_fit(model):
    pairs = [Pair("a star " * 20, "a burning star " * 20), *PAIRS]
    assert sorted(adversary(model, None, pairs).attacked(0), key=pairs.index) == PAIRS


def command(model, folder):
    """A training of one adversarial round."""
    (folder / "pairs.json").write_text(json.dumps([vars(pair) for pair in PAIRS]))
    numbers = "--batches 1 --redirected-batches 0 --pairs-per-batch 2 --kept-steps 1 --least-steps 2 --most-steps 2 --steps 2"
    line = f"train --model {model} --pairs {folder}/pairs.json --output {folder}/fire --judge tests.training.judge:is_odd"
    return f"{line} {numbers} --batch-size 4 --encoder-widths 4,4,8 --adversarial-rounds 1 --attack-steps 1".split()


def test_what_attacks_find_joins_the_data_and_is_kept(model, tmp_path, monkeypatch):
    monkeypatch.setattr("training.train.Adversary.finds", lambda *arguments: [FOUND])
    line = command(model, tmp_path)
    said = []
    card = train_guard(request(parse(line)), said.append)
    assert "adversarial round 1: 1 of 1 attacks succeeded" in said
    assert [stage.name for stage in card.stages] == ["plain", "adversarial-1"]
    assert card.stages[1].shards == 3 and card.stages[1].points > card.stages[0].points
    for name, numbers in (("adversarial-1", (-1, 1)), ("adversarial-1-redirected", (1,))):
        (shard,) = (tmp_path / "fire" / "trajectories" / name).glob("*.safetensors")
        assert np.isin(load_file(shard)["pair"].numpy(), numbers).all(), "after the one pair to train on"
    monkeypatch.setattr("training.train.Adversary.finds", lambda *arguments: pytest.fail("attacked again"))
    assert train_guard(request(parse(line)), said.append) == card


def test_attacks_of_a_training_write_the_words_that_are_given(model, tmp_path, monkeypatch):
    (tmp_path / "words.txt").write_text("grey\nblue\n")
    given = searches(monkeypatch, "grey")
    card = train_guard(request(parse([*command(model, tmp_path), "--attack-words", f"{tmp_path}/words.txt"])), lambda line: None)
    assert [texts for _, _, texts in given] == [("grey", "blue")] and card.data["attack_words"] == 2
