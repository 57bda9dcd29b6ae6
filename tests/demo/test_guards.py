"""A guard of the demo is trained by the training command's own function, on seen words and scenes alone."""

from __future__ import annotations

import json
import re

import pytest
import torch

from demo import guards
from demo.guards import train_demo_guard
from demo.oracle import JUDGES
from demo.wordings import UNSEEN_FILLER_WORDS, UNSEEN_FIRE_WORDINGS, UNSEEN_STAR_WORDS
from engines.canary import Canary
from evaluation.judges import load_judge
from saferedir.checkpoint import load_redirector, save_redirector
from saferedir.metadata import Metadata, read_metadata
from tests.random_heads import SMALL, random_heads


@pytest.mark.parametrize("concept", JUDGES)
def test_what_a_guard_is_trained_on(tmp_path, monkeypatch, concept):
    asked, heads = [], random_heads(SMALL)
    metadata = Metadata([Canary("a star", False, 0)], concept=concept)

    def train_guard(request):
        asked.append(request)
        request.output.mkdir()
        save_redirector(heads, request.output / "guard.safetensors", metadata)

    monkeypatch.setattr(guards, "train_guard", train_guard)
    monkeypatch.setattr(guards, "PAIRS", 5)
    monkeypatch.setattr(guards, "BENIGN", 5)
    monkeypatch.setattr(guards, "NEGATED", 5)
    train_demo_guard(concept, tmp_path / "model", tmp_path / "work", tmp_path / "guard.safetensors")
    (request,) = asked
    assert request.concept == concept and load_judge(request.judge) is JUDGES[concept]
    pairs = json.loads(request.pairs[0].read_text())
    text = " ".join([*(pair["unsafe"] for pair in pairs), request.benign.read_text(), request.safe_prompts.read_text()]).lower()
    for word in (*UNSEEN_FIRE_WORDINGS, *UNSEEN_STAR_WORDS, *UNSEEN_FILLER_WORDS):
        assert not re.search(rf"\b{word}\b", text), word
    shipped = load_redirector(tmp_path / "guard.safetensors")
    assert read_metadata(tmp_path / "guard.safetensors") == metadata
    for name, tensor in load_redirector(request.output / "guard.safetensors").state_dict().items():
        torch.testing.assert_close(shipped.state_dict()[name], tensor.half().to(tensor.dtype), rtol=0, atol=0)
