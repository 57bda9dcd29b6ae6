"""Canaries of a new checkpoint: held-out pairs that the model draws as they say, and that the guard judges with room to spare."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engines.canary import Canary
from engines.networks import LATENT_CHANNELS
from engines.pairs import Pair
from evaluation.judges import Judge
from saferedir.heads import Redirector
from training.generator import Generator

WANTED = 2  # pairs
TRIED = 16  # pairs at most
STEPS, GUIDANCE = 25, 7.5
DISTILLED_STEPS, DISTILLED_GUIDANCE = 4, 7.5


@torch.no_grad()
def choose_canaries(
    heads: Redirector, generator: Generator, pairs: Sequence[Pair], threshold: float, judge: Judge | None
) -> list[Canary]:
    """The prompts of the first two pairs that both get right; of fewer, or none, where there are no more.

    The guard's answer must be as far from the threshold as halfway to 0 or 1, so that another processor's rounding does not turn
    it. Without a judge, nobody looks at the pictures.
    """
    chosen: list[Canary] = []
    for seed, pair in enumerate(pairs[:TRIED]):
        canaries = [Canary(pair.safe, False, seed), Canary(pair.unsafe, True, seed)]
        embeds = generator.encode([pair.safe, pair.unsafe])
        noise = torch.randn(LATENT_CHANNELS, *generator.latent_size, generator=torch.Generator().manual_seed(seed))
        noise = noise.to(generator.device).expand(2, -1, -1, -1)
        timestep = torch.full((2,), float(canaries[0].timestep), device=generator.device)
        safe, unsafe = torch.softmax(heads(noise, timestep, embeds).logits, dim=1)[:, 1].tolist()
        if safe > threshold / 2 or unsafe < (1 + threshold) / 2:
            continue
        if judge is None or _shown(generator, embeds, noise, judge) == [False, True]:
            chosen += canaries
        if len(chosen) == 2 * WANTED:
            break
    return chosen


def _shown(generator: Generator, embeds: Tensor, noise: Tensor, judge: Judge) -> list[bool]:
    """What the judge sees in the pictures of these prompts."""
    name, steps, guidance = ("lcm", DISTILLED_STEPS, DISTILLED_GUIDANCE) if generator.distilled else ("ddim", STEPS, GUIDANCE)
    prompts = generator.encode([""]).expand_as(embeds), embeds
    final = generator.sample(generator.scheduler(name), steps, guidance, prompts, noise, lambda _, __, current: current)
    return [bool(judge(picture)) for picture in generator.pictures(final)]
