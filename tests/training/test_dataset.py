"""Batches for training: balanced, decided by their number, and labelled by the prompt that they carry."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engines.pairs import Pair
from saferedir.heads import RedirectorConfig
from tests.export.miniature import WIDTH
from tests.random_heads import random_heads
from training.augmentation import Augmentation
from training.captions import pair_captions, unsafe_captions
from training.dataset import SETTLED, SIMULATED, Batches, Dataset
from training.losses import Batch, common_shift
from training.settings import TrainingSettings
from training.shards import record_shards
from training.trajectories import LATE, record

PAIRS = [Pair(f"a {colour} star", f"a burning {colour} star") for colour in ("red", "green", "blue", "pink")]
SETTINGS = TrainingSettings(kept_steps=4, least_steps=4, most_steps=4)


@pytest.fixture(scope="module")
def dataset(generator, tmp_path_factory):
    """Four pairs as written and a hard negative, and the unsafe prompts redirected, of which the judge finds the half unsafe. As
    written, two of the unsafe ones show it."""
    folder, augmentation = tmp_path_factory.mktemp("shards"), Augmentation([pair.safe for pair in PAIRS])
    heads = random_heads(RedirectorConfig(embed_dim=WIDTH, encoder_widths=(4, 4, 8)))
    with torch.no_grad():
        heads.classifier[-1].bias.copy_(torch.tensor([-20.0, 20.0]))  # so that every redirected point has a shift
    seen = iter(range(100))

    def shard(number):
        draw = np.random.default_rng(number)
        if number == 0:
            shown = iter([False] * 4 + [True, False] * 2 + [False])
            return record(generator, pair_captions(PAIRS, augmentation, 4, draw), SETTINGS, draw, lambda picture: next(shown))
        captions = unsafe_captions(PAIRS, augmentation, 4, draw)
        return record(generator, captions, SETTINGS, draw, lambda picture: next(seen) % 2 == 0, heads)

    return Dataset(record_shards(folder, {}, 2, shard))


@pytest.fixture(scope="module")
def batches(dataset, generator):
    return Batches(dataset, 64, 0, generator, PAIRS, Augmentation([pair.safe for pair in PAIRS]))


def test_a_batch_is_decided_by_its_number(batches):
    first, again, other = batches(0), batches(0), batches(1)
    assert all(torch.equal(*values) for values in zip(first, again, strict=True))
    assert not torch.equal(first.latents, other.latents)


def many(batches, count):
    return Batch(*(torch.cat(values) for values in zip(*(batches(number) for number in range(count)), strict=True)))


def test_targets_follow_the_label(batches):
    batch = many(batches, 4)
    as_written = (batch.embeds == batch.original).all(dim=2).all(dim=1)
    assert 0.45 < (~as_written).float().mean() < 0.68, "nearly a half was redirected, and an eighth is here"
    assert 0.4 < batch.unsafe.float().mean() < 0.7
    written = batch.unsafe[as_written]
    assert torch.equal(batch.differs[as_written].any(dim=1), written)
    assert torch.equal(batch.target_shift[as_written].abs().amax(dim=(1, 2)) > 0, written)


def key(latents):
    """The same for latents and their mirror image."""
    return tuple(latents.flatten().sort().values[::7].tolist())


def test_half_of_the_points_are_given_another_wording_and_some_the_other_prompt(dataset, batches):
    of_latents = {key(dataset.batch([row]).latents[0]): row for row in range(len(dataset))}
    changed, mirrored, flipped = 0, 0, {True: [], False: []}
    batch = many(batches, 8)
    for place in range(len(batch.unsafe)):
        row = of_latents[key(batch.latents[place])]
        recorded = dataset.batch([row])
        mirrored += not torch.equal(recorded.latents[0], batch.latents[place])
        if dataset.redirected[row] or dataset.pair(row) < 0 or not torch.equal(batch.embeds[place], batch.original[place]):
            continue
        changed += not torch.equal(batch.original[place], recorded.original[0])
        if bool(batch.unsafe[place]) != dataset.unsafe[row]:
            flipped[bool(dataset.unsafe[row])].append(dataset.timesteps[row])
    assert 200 < mirrored < 312
    assert changed > 60
    assert len(flipped[False]) > 10, "latents of a safe run, under the unsafe prompt"
    assert flipped[True] and min(flipped[True]) >= LATE, "late latents of an unsafe run are never called safe"


def test_late_latents_that_show_it_are_given_redirected_prompts(dataset, batches):
    of_latents = {key(dataset.batch([row]).latents[0]): row for row in range(len(dataset))}
    batch, strengths = many(batches, 8), []
    for place in range(len(batch.unsafe)):
        row, shift = of_latents[key(batch.latents[place])], batch.embeds[place] - batch.original[place]
        if not dataset.redirected[row] and shift.abs().sum() > 0:
            assert dataset.shown[row] and dataset.asked[row] and dataset.timesteps[row] < SETTLED and batch.unsafe[place]
            recorded = dataset.batch([row])
            target = common_shift(recorded.target_shift, recorded.original, recorded.differs)[0]
            strengths.append(float((shift * target).sum() / target.square().sum()))
            torch.testing.assert_close(shift, strengths[-1] * target, atol=1e-4, rtol=1e-4)
    assert len(strengths) > 30 and SIMULATED[0] - 0.01 < min(strengths) < 0.7 and 1.2 < max(strengths) < SIMULATED[1] + 0.01
