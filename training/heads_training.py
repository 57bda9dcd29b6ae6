"""The loop that trains heads on recorded points: AdamW, one-cycle rate, moving average, early stop on held-out pairs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from engines.errors import InputError
from saferedir.heads import HeadsOutput, Redirector
from training.dataset import Dataset
from training.losses import Batch, LossWeights, losses, weighted
from training.settings import TrainingSettings

AVERAGE = 0.99  # decay of the moving average of the weights
WEIGHT_DECAY = 1e-2
WARM_UP = 0.1  # share of the steps
MEASURED = 2048  # held-out points of an evaluation, at most


@dataclass(frozen=True)
class Evaluation:
    """The held-out losses after so many steps: the terms of Eq. 14 and their weighted sum."""

    step: int
    losses: dict[str, float]


def train_heads(
    heads: Redirector, batches: Callable[[int], Batch], held_out: Dataset, settings: TrainingSettings, title: str
) -> tuple[Redirector, list[Evaluation]]:
    """Train `heads` where they are; all evaluations, and the average of the weights at the one with the lowest loss, in eval mode.

    Raises:
        InputError: the loss became NaN or infinite.
    """
    device = heads.pos_embed.device
    average = copy.deepcopy(heads).eval().requires_grad_(False)
    optimiser = torch.optim.AdamW(heads.parameters(), lr=settings.learning_rate, weight_decay=WEIGHT_DECAY)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.learning_rate, settings.steps, pct_start=WARM_UP)
    evaluations: list[Evaluation] = []
    best, since = copy.deepcopy(average), 0
    heads.train().requires_grad_(True)
    with tqdm(total=settings.steps, desc=title, unit="step", mininterval=5) as bar:
        for step in range(settings.steps):
            torch.manual_seed(settings.seed * 1_000_003 + step)  # of dropout
            batch = batches(step)
            _descend(heads, batch, optimiser, step, settings.precision)
            rate.step()
            update_average(average, heads, min(AVERAGE, (1 + step) / (10 + step)))
            bar.update()
            if (step + 1) % settings.evaluate_every and step + 1 < settings.steps:
                continue
            evaluations.append(Evaluation(step + 1, held_out_losses(average, held_out, device)))
            bar.set_postfix(held_out=f"{evaluations[-1].losses['total']:.4f}", refresh=False)
            if evaluations[-1].losses["total"] <= min(one.losses["total"] for one in evaluations):
                best, since = copy.deepcopy(average), 0
            elif (since := since + 1) >= settings.patience:
                break
    return best, evaluations


def _descend(heads: Redirector, batch: Batch, optimiser: torch.optim.Optimizer, step: int, precision: str) -> None:
    """One step of the optimiser."""
    with torch.autocast(batch.latents.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        output = heads(batch.latents, batch.timesteps, batch.embeds)
    loss = weighted(losses(HeadsOutput(*(values.float() for values in output)), batch), LossWeights())
    if not torch.isfinite(loss):
        raise InputError(f"learning_rate: the loss became {loss.item()} at step {step}; choose a lower one")
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(heads.parameters(), 1.0)
    optimiser.step()


def chunks(dataset: Dataset, rows: np.ndarray, device: torch.device, size: int = 64) -> Iterator[tuple[np.ndarray, Batch]]:
    """Some rows of a dataset, a batch at a time."""
    for first in range(0, len(rows), size):
        part = rows[first : first + size]
        yield part, dataset.batch(part.tolist()).to(device)


@torch.no_grad()
def held_out_losses(heads: Redirector, held_out: Dataset, device: torch.device) -> dict[str, float]:
    """Each loss, averaged over batches of held-out points, and their weighted sum as `total`."""
    rows = np.random.default_rng(0).permutation(len(held_out))[:MEASURED]
    sums: dict[str, float] = {}
    for part, batch in chunks(held_out, rows, device):
        terms = losses(heads(batch.latents, batch.timesteps, batch.embeds), batch)
        for name, term in {**terms, "total": weighted(terms, LossWeights())}.items():
            sums[name] = sums.get(name, 0.0) + float(term) * len(part) / len(rows)
    return sums


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move an exponential average of a model's weights towards them; buffers are copied."""
    for mean, weight in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(weight, 1 - decay)
    for kept, buffer in zip(average.buffers(), model.buffers(), strict=True):
        kept.copy_(buffer)
