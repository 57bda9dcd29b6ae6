"""The demo's UNet: batches depend on the step's number alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from demo import generator
from demo.generator import Batches, Means, train_generator
from demo.scene import training_scenes
from demo.text_encoder import new_text_encoder
from demo.trainer import TrainingSetup
from demo.vocabulary import new_tokenizer
from export.build_command import DEMO_MODEL

PICTURES = 50


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return new_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def batches(tokenizer, **fields):
    latents = torch.randn(PICTURES, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    scenes = training_scenes(np.random.default_rng(0), PICTURES)
    return Batches(latents, scenes, tokenizer, 1000, **fields)


def test_a_batch_is_drawn_from_the_number_of_its_step(tokenizer):
    drawn, again = batches(tokenizer), batches(tokenizer)
    assert all(torch.equal(values, again[7][name]) for name, values in drawn[7].items())
    assert not torch.equal(drawn[0]["noise"], drawn[1]["noise"])
    timesteps = torch.cat([drawn[step]["timesteps"] for step in range(40)]).float()
    assert timesteps.mean() == pytest.approx(500, abs=30) and timesteps.max() < 1000
    assert drawn[0]["ids"].shape == (64, 77) and drawn[0]["latents"].shape == drawn[0]["noise"].shape == (64, 4, 16, 16)


def test_processes_share_a_batch(tokenizer):
    whole = batches(tokenizer)[3]
    for rank in range(2):
        part = batches(tokenizer, rows=slice(rank, None, 2))[3]
        assert all(torch.equal(values, whole[name][rank::2]) for name, values in part.items())


def test_workers_change_nothing(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(generator, "SETUP", TrainingSetup(steps=2, learning_rate=1e-3, muon_rate=1e-3))
    monkeypatch.setattr(generator, "BATCH", 8)
    monkeypatch.setattr(generator, "PICTURES", PICTURES)
    autoencoder = AutoencoderKL.from_pretrained(DEMO_MODEL / "vae", torch_dtype=torch.float32)
    torch.manual_seed(0)
    text_encoder = new_text_encoder(len(tokenizer)).requires_grad_(False)
    trained = []
    for workers in (0, 1):
        work = tmp_path / str(workers)
        work.mkdir()
        trained.append(train_generator(autoencoder, text_encoder, tokenizer, work, Means(workers=workers)).unet.state_dict())
        assert sorted(path.name for path in work.iterdir()) == ["generator.pt", "latents.pt"]
    assert all(torch.equal(values, trained[1][name]) for name, values in trained[0].items())
