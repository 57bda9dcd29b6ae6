"""One optimisation loop for all stages of the demo: one-cycle rate, moving average, checkpoints that resume."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from tqdm import tqdm

from demo.muon import Muon, inner_matrices
from demo.processes import average_gradients, leads
from training.heads_training import update_average

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class TrainingSetup:
    """How one stage is trained: by AdamW; `average` is the decay of the moving average of the weights.

    With `muon_rate` Muon trains the inner weight matrices, at that learning rate.
    """

    steps: int
    learning_rate: float
    muon_rate: float | None = None
    average: float = 0.998
    weight_decay: float = 1e-2
    save_seconds: float = 60.0


def save_atomically(state: object, path: Path) -> None:
    """torch.save under a temporary name, then rename, so that an interrupt never leaves half a file."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def _optimisers(model: nn.Module, setup: TrainingSetup) -> list[torch.optim.Optimizer]:
    matrices = inner_matrices(model) if setup.muon_rate else []
    inner = {id(weight) for weight in matrices}
    others = [weight for weight in model.parameters() if weight.requires_grad and id(weight) not in inner]
    found: list[torch.optim.Optimizer] = [torch.optim.AdamW(others, lr=setup.learning_rate, weight_decay=setup.weight_decay)]
    if setup.muon_rate:
        found.append(Muon(matrices, lr=setup.muon_rate, weight_decay=setup.weight_decay, adjust_lr_fn="match_rms_adamw"))
    return found


def train(model: Model, loss_of: Callable[[int], Tensor], setup: TrainingSetup, checkpoint: Path) -> Model:
    """Minimise `loss_of(step)` over the parameters of `model` and return the averaged model, in eval mode.

    `loss_of` draws its batch from the step number alone, so a run resumed from `checkpoint` sees the batches that
    an uninterrupted one would have seen. A finished checkpoint returns at once.
    """
    averaged = copy.deepcopy(model).eval().requires_grad_(False)
    optimisers = _optimisers(model, setup)
    schedules = [OneCycleLR(each, each.defaults["lr"], setup.steps, pct_start=0.1) for each in optimisers]
    stateful: list[torch.optim.Optimizer | OneCycleLR] = [*optimisers, *schedules]
    done = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        averaged.load_state_dict(state["averaged"])
        for each, stored in zip(stateful, state["optimisation"], strict=True):
            each.load_state_dict(stored)
        done = state["step"]

    def save(step: int) -> None:
        save_atomically(
            {
                "model": model.state_dict(),
                "averaged": averaged.state_dict(),
                "step": step,
                "optimisation": [each.state_dict() for each in stateful],
            },
            checkpoint,
        )

    saved, smooth = time.monotonic(), None
    model.train()
    with tqdm(total=setup.steps, initial=done, desc=checkpoint.stem, mininterval=10, maxinterval=30, disable=not leads()) as bar:
        for step in range(done, setup.steps):
            torch.manual_seed(step)
            loss = loss_of(step)
            model.zero_grad()
            loss.backward()
            average_gradients(model)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for each in stateful:
                each.step()
            update_average(averaged, model, min(setup.average, (1 + step) / (10 + step)))
            smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
            bar.set_postfix(loss=f"{smooth:.4f}", refresh=False)
            bar.update()
            if leads() and time.monotonic() - saved > setup.save_seconds:
                save(step + 1)
                saved = time.monotonic()
    if leads() and done < setup.steps:
        save(setup.steps)
    return averaged
