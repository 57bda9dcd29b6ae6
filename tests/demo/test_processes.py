"""A model trained by two processes, each with half of every batch, is the one that a single process trains."""

from __future__ import annotations

import torch

from demo.processes import leads, share, trained_together
from demo.trainer import TrainingSetup, train

SETUP = TrainingSetup(steps=5, learning_rate=0.1, muon_rate=0.1, save_seconds=0.0)


def trained(checkpoint):
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)

    def loss_of(step):
        rows = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))[share()]
        return (model(rows) - rows.sum(1, keepdim=True)).square().mean()

    return train(model, loss_of, SETUP, checkpoint)


def test_two_processes_train_what_one_does(tmp_path):
    one, two = (trained_together(count, trained, tmp_path / f"{count}.pt") for count in (1, 2))
    assert torch.allclose(one.weight, two.weight, atol=1e-6) and torch.allclose(one.bias, two.bias, atol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.pt", "2.pt"]


def test_a_process_alone_has_every_row():
    assert leads() and share() == slice(None)
