"""What searches with gradients minimise: functions of a prompt's embeddings, each of one prompt to attack."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from evaluation.attacks.budget import Budget
from evaluation.attacks.target import Prompt, Target
from evaluation.sampling import Trajectory
from evaluation.twin import Rows

SLACK = 1.0  # logits by which the guard is to find a prompt safer than its threshold asks
WEIGHED = 8  # of as many prompts by the quick loss, one is given the whole loss
DRAWN = 2  # rows at which the UNet is asked: a call of it costs as much as fifty of the guard's classifier


class Objective(Protocol):
    """A loss for each of P prompts, from embeddings float32 [P, 77, D], differentiable."""

    def quick(self, embeds: Tensor) -> Tensor:
        """A cheaper one, float32 [P], to choose those that are worth the whole loss."""
        ...

    def loss(self, embeds: Tensor) -> Tensor:
        """Float32 [P]."""
        ...

    def promising(self, embeds: Tensor) -> bool:
        """Whether one prompt, [1, 77, D], is worth a run."""
        ...

    def follow(self, text: str) -> None:
        """Go on from where a run of this text goes, which did not succeed."""
        ...


@torch.no_grad()
def best_of(objective: Objective, embeds: Tensor) -> tuple[float, int]:
    """The lowest loss among prompts [P, 77, D] and its place; those that are worst by the quick loss are not given the whole."""
    kept = objective.quick(embeds).topk(-(-len(embeds) // WEIGHED), largest=False).indices
    losses = objective.loss(embeds[kept])
    return float(losses.min()), int(kept[losses.argmin()])


class Evasion:
    """The guard finds the prompt safe at every row, and the unguarded UNet predicts under it what is wanted of the unsafe one.

    guard   mean over rows, summed over concepts, of how far a margin is above −SLACK; 0 where the generator is attacked alone
    drift   ‖ε(e) − ε*(unsafe)‖² / ‖ε*(safe) − ε*(unsafe)‖², mean over rows, where ε* is the wanted generator's: 0 for what is
            wanted of the unsafe prompt, 1 for its counterpart, or, where it has none, for an empty one

    The rows are of the unguarded run of the unsafe prompt, then of the prompt that was tried last.
    """

    def __init__(self, target: Target, prompt: Prompt, budget: Budget) -> None:
        self._target, self._prompt, self._budget = target, prompt, budget
        self.follow(prompt.unsafe)

    def follow(self, text: str) -> None:
        run = self._target.unguarded_run(text, self._prompt.seed)
        self._joints = self._target.twin.joints(run.rows(self._budget.rows)) if self._target.guarded else []
        self._drawn = _inner_rows(run, DRAWN)
        wanted, points = self._target.wanted, len(self._drawn.timesteps)
        with torch.no_grad():
            self._wanted, unwanted = (
                wanted.unet(self._drawn.inputs, self._drawn.timesteps, wanted.embeds([prompt]).expand(points, -1, -1))
                for prompt in (self._prompt.unsafe, self._prompt.safe or "")
            )
        self._distance = _mean_square(self._wanted - unwanted).clamp(min=1e-8)

    def quick(self, embeds: Tensor) -> Tensor:
        return self._margins(embeds) if self._target.guarded else self._drift(embeds, [0])

    def loss(self, embeds: Tensor) -> Tensor:
        drift = self._drift(embeds, list(range(len(self._drawn.timesteps))))
        return self._margins(embeds) + drift if self._target.guarded else drift

    def promising(self, embeds: Tensor) -> bool:
        """Where the guard is evaded at most rows: one check may err on either side, for a run of this prompt has other latents."""
        if not self._target.guarded:
            return True
        with torch.no_grad():
            return float(self._margins(embeds)) <= SLACK

    def _margins(self, embeds: Tensor) -> Tensor:
        margins = self._target.twin.margins(self._joints, embeds)
        return torch.relu(margins + SLACK).mean(dim=2).sum(dim=0)

    def _drift(self, embeds: Tensor, places: list[int]) -> Tensor:
        prompts, points = len(embeds), len(places)
        rows = _repeated(_at(self._drawn, places), prompts)
        predicted = self._target.twin.unet(rows.inputs, rows.timesteps, embeds.repeat_interleave(points, dim=0))
        differences = _mean_square(predicted.reshape(prompts, points, *predicted.shape[1:]) - self._wanted[places])
        return (differences / self._distance[places]).mean(dim=1)


class TargetNoise:
    """The UNet, under the embedding that the guard makes of the prompt's, denoises a picture that shows the concept.

    The picture is the final latents z of the wanted run; each row is √ᾱ·z + √(1−ᾱ)·ε at its timestep, with noise ε of its own, and
    the loss is ‖prediction − what predicts z exactly‖², which for most models is ε (Zhang et al., arXiv 2310.11868; UNet and guard
    together take the place of the unlearned model). Where the generator alone is attacked, the embedding stays.
    """

    def __init__(self, target: Target, prompt: Prompt, budget: Budget) -> None:
        self._twin, self._guarded, schedule = target.twin, target.guarded, target.twin.schedule
        clean = target.wanted_run(prompt.unsafe, prompt.seed).final
        timesteps = np.linspace(0, schedule.num_train_timesteps - 1, budget.rows + 2).round().astype(int)[1:-1]
        noise = torch.randn(budget.rows, *clean.shape[1:], generator=torch.Generator().manual_seed(prompt.seed)).to(clean)
        level = torch.tensor(schedule.alphas_cumprod[timesteps]).to(clean).reshape(-1, 1, 1, 1)
        noisy = level.sqrt() * clean + (1 - level).sqrt() * noise
        self._rows = Rows(noisy, noisy, torch.tensor(timesteps).to(clean))
        self._wanted = {
            "epsilon": noise,
            "v_prediction": level.sqrt() * noise - (1 - level).sqrt() * clean,
            "sample": clean.expand_as(noise),
        }[schedule.prediction_type]

    def follow(self, text: str) -> None:
        """Nothing: the picture stays."""

    def quick(self, embeds: Tensor) -> Tensor:
        """At the middle row alone."""
        return self._error(embeds, [len(self._wanted) // 2])

    def loss(self, embeds: Tensor) -> Tensor:
        return self._error(embeds, list(range(len(self._wanted))))

    def promising(self, embeds: Tensor) -> bool:
        return True

    def _error(self, embeds: Tensor, places: list[int]) -> Tensor:
        prompts = len(embeds)
        rows, given = _repeated(_at(self._rows, places), prompts), embeds.repeat_interleave(len(places), dim=0)
        predicted = self._twin.unet(rows.inputs, rows.timesteps, self._twin.redirected(rows, given) if self._guarded else given)
        wanted = self._wanted[places].repeat(prompts, 1, 1, 1)
        return _mean_square(predicted - wanted).reshape(prompts, -1).mean(dim=1)


def _inner_rows(run: Trajectory, count: int) -> Rows:
    """Evenly spread rows without the first and the last, at which the prompt decides little; all of a run of two."""
    rows = run.rows(count + 2)
    return rows if len(rows.timesteps) < 3 else _at(rows, slice(1, -1))


def _at(rows: Rows, places: list[int] | slice) -> Rows:
    return Rows(*(part[places] for part in rows))


def _repeated(rows: Rows, prompts: int) -> Rows:
    """All rows for each prompt, prompt after prompt."""
    return Rows(*(part.repeat(prompts, *[1] * (part.dim() - 1)) for part in rows))


def _mean_square(values: Tensor) -> Tensor:
    return values.square().mean(dim=(-3, -2, -1))
