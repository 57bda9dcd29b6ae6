"""Muon takes a convolution's kernel as a matrix."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from demo.muon import Muon, inner_matrices

OPTIONS = {"lr": 0.1, "weight_decay": 0.01, "adjust_lr_fn": "match_rms_adamw"}


def test_a_kernel_steps_as_the_matrix_that_it_is():
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 4, 3, bias=False).to(memory_format=torch.channels_last)
    matrix = nn.Parameter(layer.weight.detach().permute(0, 2, 3, 1).reshape(4, 54).clone())
    before = layer.weight.detach().clone()
    ours, torchs = Muon([layer.weight], **OPTIONS), torch.optim.Muon([matrix], **OPTIONS)
    for _ in range(3):
        layer.weight.grad = torch.randn(layer.weight.shape)
        matrix.grad = layer.weight.grad.permute(0, 2, 3, 1).reshape(4, 54)
        ours.step()
        torchs.step()
    assert torch.equal(layer.weight.permute(0, 2, 3, 1).reshape(4, 54), matrix)
    assert not torch.equal(layer.weight, before)


def test_a_kernel_that_is_no_view_is_refused():
    with pytest.raises(RuntimeError, match="view"):
        Muon([nn.Conv2d(6, 4, 3).weight], **OPTIONS)


def test_what_touches_inputs_and_outputs_stays_with_adamw():
    layers = {name: nn.Linear(2, 2) for name in ("conv_in", "inner", "time_embedding", "frozen")}
    layers["frozen"].requires_grad_(False)
    assert inner_matrices(nn.ModuleDict(layers)) == [layers["inner"].weight]
