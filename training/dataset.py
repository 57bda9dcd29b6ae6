"""The points of recorded trajectories, read from shards when they are wanted: a training holds one batch of them in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from engines.pairs import Pair
from training.augmentation import Augmentation
from training.generator import Generator
from training.losses import Batch, common_shift
from training.trajectories import LATE, Caption, targets


class Dataset:
    """All points of some shards, numbered from 0.

    In memory are `unsafe`, `redirected` and `final` bool [N], `timesteps` float32 [N], `trajectory` int64 [N], counted through all
    shards, `asked` bool [N], whether the prompt asks for the concept, and `shown` bool [N], whether a judge sees it in the picture;
    the rest is read by `batch`.
    """

    def __init__(self, shards: Sequence[Path]) -> None:
        self._shards = [safe_open(path, framework="pt") for path in shards]
        names = ("unsafe", "redirected", "final", "timesteps", "trajectory", "asked", "shown")
        parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
        places, self._pairs, trajectories = [], [], 0
        for number, shard in enumerate(self._shards):
            trajectory, pair = (shard.get_tensor(name).numpy().astype(np.int64) for name in ("trajectory", "pair"))
            parts["unsafe"].append(shard.get_tensor("unsafe").numpy())
            parts["redirected"].append(np.full(len(trajectory), "shift" in shard.keys()))
            parts["final"].append(shard.get_tensor("final").numpy())
            parts["timesteps"].append(shard.get_tensor("timesteps").numpy())
            parts["trajectory"].append(trajectories + trajectory)
            parts["asked"].append(shard.get_tensor("asked").numpy()[trajectory])
            judged = "shown" in shard.keys()
            parts["shown"].append(shard.get_tensor("shown").numpy()[trajectory] if judged else np.zeros(len(trajectory), bool))
            places.append(np.stack([np.full(len(trajectory), number), np.arange(len(trajectory)), trajectory], axis=1))
            self._pairs.append(pair)
            trajectories += len(pair)
        self._places = np.concatenate(places)  # of each point: shard, point and trajectory in it
        joined = {name: np.concatenate(values) for name, values in parts.items()}
        self.unsafe, self.redirected, self.final, self.asked, self.shown = (
            joined[name].astype(bool) for name in ("unsafe", "redirected", "final", "asked", "shown")
        )
        self.timesteps, self.trajectory = joined["timesteps"], joined["trajectory"]

    def __len__(self) -> int:
        return len(self._places)

    def pair(self, row: int) -> int:
        """The pair that a point's trajectory is of, -1 for a hard negative."""
        shard, _, trajectory = self._places[row]
        return int(self._pairs[shard][trajectory])

    def batch(self, rows: Sequence[int]) -> Batch:
        """The points of these rows, on the CPU."""
        found = [self._point(*self._places[row]) for row in rows]
        return Batch(*(torch.stack(values) for values in zip(*found, strict=True)))

    def _point(self, shard: int, row: int, trajectory: int) -> tuple[Tensor, ...]:
        opened = self._shards[shard]
        original, target, differs = (
            opened.get_slice(name)[trajectory : trajectory + 1][0] for name in ("embeds", "target_shift", "differs")
        )
        latents, timestep, unsafe = (opened.get_slice(name)[row : row + 1][0] for name in ("latents", "timesteps", "unsafe"))
        original = original.float()
        embeds = original + opened.get_slice("shift")[row : row + 1][0].float() if "shift" in opened.keys() else original
        return latents.float(), timestep, embeds, unsafe, original, target.float(), differs


SIMULATED = (0.4, 1.5)  # of what heads can reach of the shift to the counterpart
SETTLED = 300  # the timestep from which on latents show what the picture will


@dataclass(frozen=True, eq=False)
class _Group:
    """Points int64 [n] that a batch draws from with this weight, and whether their prompts are to be redirected."""

    weight: float
    rows: np.ndarray
    redirect: bool = False


class Batches:
    """Random batches of a dataset for training. Batch i depends on the seed and on i alone.

    Safe and unsafe points are equally frequent, and so are points under prompts as written and under redirected ones where there
    are any. Half of the points under prompts as written are given another wording of their pair, whose embeddings are computed
    anew: text encoders are cheap beside UNets, and wordings are what a guard must generalise over. Half of these are given the
    pair's other prompt and its label, as far as that is true of their latents: an unsafe prompt always, a safe one only early in a
    run, where latents show little yet. Else heads would learn by heart which recorded latents are unsafe, and not read the prompt.

    For the same reason some late latents in which a judge sees the concept are given redirected embeddings, and stay unsafe: most
    runs that are really redirected end well. And half of all latents are mirrored: the picture shows the same, left and right.
    """

    def __init__(
        self, dataset: Dataset, size: int, seed: int, generator: Generator, pairs: Sequence[Pair], augmentation: Augmentation
    ) -> None:
        self._dataset, self._size, self._seed = dataset, size, seed
        self._generator, self._pairs, self._augmentation = generator, pairs, augmentation
        groups = [
            _Group(0.25, np.nonzero((dataset.redirected == redirected) & (dataset.unsafe == unsafe))[0])
            for redirected in (False, True)
            for unsafe in (False, True)
        ]
        settled = ~dataset.redirected & dataset.asked & dataset.shown & (dataset.timesteps < SETTLED)
        groups.append(_Group(0.15, np.nonzero(settled)[0], redirect=True))
        self._groups = [group for group in groups if len(group.rows)]

    def __call__(self, number: int) -> Batch:
        """Batch `number`, on the generator's device."""
        draw = np.random.default_rng([self._seed, number])
        weights = np.array([group.weight for group in self._groups])
        chosen = [self._groups[index] for index in draw.choice(len(self._groups), self._size, p=weights / weights.sum())]
        rows = [int(draw.choice(group.rows)) for group in chosen]
        batch = self._dataset.batch(rows)
        reached = common_shift(batch.target_shift, batch.original, batch.differs)
        for place, group in enumerate(chosen):
            if group.redirect:
                batch.embeds[place] = batch.original[place] + draw.uniform(*SIMULATED) * reached[place]
            if draw.random() < 0.5:
                batch.latents[place] = batch.latents[place].flip(2)
        redirected = self._dataset.redirected[rows] | [group.redirect for group in chosen]
        return self._reworded(batch.to(self._generator.device), rows, np.nonzero(~redirected)[0], draw)

    def _reworded(self, batch: Batch, rows: Sequence[int], as_written: np.ndarray, draw: np.random.Generator) -> Batch:
        places, captions = [], []
        for place in as_written:
            row = rows[place]
            number, unsafe = self._dataset.pair(row), bool(self._dataset.asked[row])
            labelled_by_prompt = unsafe == self._dataset.unsafe[row]
            if number >= 0 and labelled_by_prompt and draw.random() < 0.5:
                pair = self._augmentation.pair(self._pairs[number], draw)
                if draw.random() < 0.5 and (not unsafe or self._dataset.timesteps[row] >= LATE):
                    unsafe = not unsafe
                places.append(int(place))
                captions.append(Caption(pair.unsafe if unsafe else pair.safe, pair.safe, unsafe))
        if not places:
            return batch
        embeds = self._generator.encode([caption.text for caption in captions])
        shift, differs = targets(self._generator, captions, embeds)
        batch.embeds[places] = batch.original[places] = embeds
        batch.unsafe[places] = torch.tensor([caption.unsafe for caption in captions]).to(batch.unsafe.device)
        batch.target_shift[places], batch.differs[places] = shift, differs.to(batch.differs.device)
        return batch
