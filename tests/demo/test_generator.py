"""The demo's UNet: batches depend on the step's number alone, and phases follow each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from demo import generator
from demo.generator import Batches, Means, Phase, train_generator
from demo.scene import training_scenes
from demo.text_encoder import new_text_encoder
from demo.trainer import TrainingSetup
from demo.vocabulary import new_tokenizer
from export.build_command import DEMO_MODEL

PICTURES = 50


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return new_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def test_a_batch_is_drawn_from_the_number_of_its_step(tokenizer):
    latents, scenes = torch.randn(PICTURES, 4, 16, 16), training_scenes(np.random.default_rng(0), PICTURES)
    strong, uniform, later = (Batches(latents, scenes, tokenizer, *how) for how in ((0.5, 0), (1.0, 0), (0.5, 7)))
    assert all(torch.equal(values, strong[7][name]) for name, values in later[0].items())
    assert not torch.equal(strong[0]["noise"], strong[1]["noise"])
    means = [torch.cat([batches[step]["timesteps"] for step in range(40)]).float().mean() for batches in (strong, uniform)]
    assert means[0] == pytest.approx(667, abs=25) and means[1] == pytest.approx(500, abs=30)
    assert strong[0]["ids"].shape == (32, 77) and strong[0]["latents"].shape == strong[0]["noise"].shape == (32, 4, 16, 16)


def test_phases_follow_each_other_and_workers_change_nothing(tokenizer, tmp_path, monkeypatch):
    setup = TrainingSetup(steps=2, learning_rate=1e-3)
    monkeypatch.setattr(generator, "PHASES", (Phase("generator", setup, 0.5), Phase("refined", setup, 1.0)))
    monkeypatch.setattr(generator, "PICTURES", PICTURES)
    autoencoder = AutoencoderKL.from_pretrained(DEMO_MODEL / "vae", torch_dtype=torch.float32)
    torch.manual_seed(0)
    text_encoder = new_text_encoder(len(tokenizer)).requires_grad_(False)
    trained = []
    for workers in (0, 1):
        work = tmp_path / str(workers)
        work.mkdir()
        trained.append(train_generator(autoencoder, text_encoder, tokenizer, work, Means(workers=workers)).unet.state_dict())
        assert sorted(path.name for path in work.iterdir()) == ["generator.pt", "latents.pt", "refined.pt"]
    assert all(torch.equal(values, trained[1][name]) for name, values in trained[0].items())
    first, second = (torch.load(tmp_path / "0" / f"{name}.pt", weights_only=True) for name in ("generator", "refined"))
    assert first["step"] == second["step"] == 2
    assert not torch.equal(first["averaged"]["unet.conv_in.weight"], second["averaged"]["unet.conv_in.weight"])
