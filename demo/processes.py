"""Several processes of one machine that train one model: each takes its share of every batch, and gradients are averaged."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import distributed, nn

Trained = TypeVar("Trained")


def trained_together(count: int, train: Callable[..., Trained], *arguments: object) -> Trained:
    """What `train(*arguments)` returns, once `count` new processes have trained it; one trains here.

    An exception in one of them ends all and is raised here.
    """
    if count > 1:
        with tempfile.TemporaryDirectory() as folder:
            torch.multiprocessing.spawn(_join, (count, (Path(folder) / "meeting").as_uri(), train, arguments), count)
    return train(*arguments)  # from the finished checkpoint


def _join(rank: int, count: int, address: str, train: Callable[..., object], arguments: tuple[object, ...]) -> None:
    torch.set_num_threads(max(1, torch.get_num_threads() // count))
    distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=count)
    train(*arguments)
    distributed.destroy_process_group()


def share() -> slice:
    """The rows of each batch that are this process's: all of them where it is alone."""
    together = distributed.is_initialized()
    return slice(distributed.get_rank(), None, distributed.get_world_size()) if together else slice(None)


def leads() -> bool:
    """Whether this process writes what all have in common."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def average_gradients(model: nn.Module) -> None:
    """Make every gradient the mean of all processes' ones. Nothing happens where there is one process."""
    if not distributed.is_initialized():
        return
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))
