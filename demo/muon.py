"""Muon (Jordan et al. 2024), which steps along orthogonalised momentum, for the weights of convolutions, too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

# What touches inputs, outputs and the timestep: AdamW's, as Muon's authors advise.
OUTER = {"conv_in", "conv_out", "time_embedding"}


def inner_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The weights of layers between a UNet's first and last one, that are matrices or kernels and are trained."""
    named = [(name.split("."), weight) for name, weight in model.named_parameters() if weight.requires_grad]
    return [weight for path, weight in named if weight.ndim in (2, 4) and OUTER.isdisjoint(path)]


class Muon(torch.optim.Muon):
    """torch's Muon; a kernel [O, I, h, w] counts as a matrix [O, h·w·I].

    Kernels must lie in channels_last, so that the matrix is a view of them.
    """

    def __init__(self, weights: Sequence[nn.Parameter], **options: Any) -> None:
        self._weights = weights
        super().__init__([nn.Parameter(_rows(weight.detach()).view(len(weight), -1)) for weight in weights], **options)
        self.register_step_pre_hook(self._read_gradients)

    def _read_gradients(self, *_: object) -> None:
        for weight, matrix in zip(self._weights, self.param_groups[0]["params"], strict=True):
            matrix.grad = None if weight.grad is None else _rows(weight.grad).reshape(matrix.shape)


def _rows(weight: Tensor) -> Tensor:
    return weight.permute(0, 2, 3, 1) if weight.ndim == 4 else weight
