"""An interrupted training run resumes where it was and ends with the weights of an uninterrupted one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from demo.trainer import TrainingSetup, train

SETUP = TrainingSetup(steps=12, learning_rate=0.1, average=0.5, save_seconds=0.0)


def new_model():
    torch.manual_seed(0)
    return torch.nn.Linear(4, 1)


def loss_with(model, stop_at=None):
    def loss_of(step):
        if step == stop_at:
            raise KeyboardInterrupt
        batch = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        return (model(batch) - batch.sum(1, keepdim=True)).square().mean()

    return loss_of


@pytest.mark.parametrize("setup", [SETUP, replace(SETUP, muon_rate=0.1)])
def test_resume(tmp_path, setup):
    model = new_model()
    expected = train(model, loss_with(model), setup, tmp_path / "whole.pt")
    model = new_model()
    with pytest.raises(KeyboardInterrupt):
        train(model, loss_with(model, stop_at=7), setup, tmp_path / "parts.pt")
    model = new_model()
    resumed = train(model, loss_with(model), setup, tmp_path / "parts.pt")
    assert torch.equal(resumed.weight, expected.weight)
    assert not resumed.training and sorted(path.name for path in tmp_path.iterdir()) == ["parts.pt", "whole.pt"]


def test_a_finished_run_returns_at_once(tmp_path):
    model = new_model()
    first = train(model, loss_with(model), SETUP, tmp_path / "run.pt")
    again = train(new_model(), loss_with(model, stop_at=0), SETUP, tmp_path / "run.pt")
    assert torch.equal(first.weight, again.weight)
