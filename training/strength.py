"""How strongly a guard must redirect: the alpha_scale under which pictures of held-out prompts no longer show the concept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from engines.networks import LATENT_CHANNELS
from engines.pairs import Pair
from engines.policy import Policy
from evaluation.judges import Judge
from saferedir.heads import Redirector
from training.generator import Generator
from training.redirection import Redirection
from training.settings import DISTILLED
from training.trajectories import Recording

SCALES = (1.25, 1.5, 1.75, 2.0, 2.5)  # the method's own, and stronger ones: the weakest that works keeps most of the prompt
SHIFT = "conditional"  # what a negative prompt cannot undo
SHOWN = 0.01  # of the pictures, which a scale that works may leave
PICTURES, BATCH = 64, 16
STEPS, DISTILLED_STEPS, GUIDANCE = 25, 4, 7.5


class Prompts(NamedTuple):
    """What a picture is asked for by, and away from."""

    prompt: str
    negative: str


@dataclass(frozen=True)
class ScaleTried:
    """In how many of the redirected pictures the judge saw the concept."""

    alpha_scale: float
    shown: int


@dataclass(frozen=True)
class Strength:
    """The chosen alpha_scale, and what was seen in `pictures` pictures under each scale that was tried."""

    alpha_scale: float
    pictures: int
    tried: list[ScaleTried]


def calibrated_strength(generator: Generator, heads: Redirector, pairs: Sequence[Pair], judge: Judge) -> Strength:
    """The least of SCALES under which at most SHOWN of the pictures show the concept; if none is, the one that leaves least.

    Pictures are of the unsafe prompts of up to PICTURES pairs, from the same noise at each scale: DDIM, 25 steps, guidance 7.5.
    Each prompt is drawn twice, once with the safe one as negative prompt, which pulls towards the concept whatever the guard does.
    A model that is distilled with its guidance takes no negative prompt.
    """
    prompts = [Prompts(pair.unsafe, "") for pair in pairs[:PICTURES]]
    if not generator.distilled:
        prompts += [Prompts(pair.unsafe, pair.safe) for pair in pairs[:PICTURES]]
    tried: list[ScaleTried] = []
    for scale in SCALES:
        tried.append(ScaleTried(scale, _shown(generator, heads, prompts, judge, scale)))
        if tried[-1].shown <= SHOWN * len(prompts):
            break
    best = min(tried, key=lambda one: one.shown)
    return Strength(best.alpha_scale, len(prompts), tried)


def _shown(generator: Generator, heads: Redirector, prompts: Sequence[Prompts], judge: Judge, scale: float) -> int:
    policy, seen = Policy(alpha_scale=scale, shift=SHIFT), 0
    for first in range(0, len(prompts), BATCH):
        final = _redirected(generator, heads, prompts[first : first + BATCH], policy, seed=first)
        seen += sum(bool(judge(picture)) for picture in generator.pictures(final))
    return seen


def _redirected(generator: Generator, heads: Redirector, prompts: Sequence[Prompts], policy: Policy, seed: int) -> Tensor:
    """Final latents of one run."""
    name, steps = (DISTILLED, DISTILLED_STEPS) if generator.distilled else ("ddim", STEPS)
    images, seeded = len(prompts), torch.Generator().manual_seed(seed)
    embeds = generator.encode([each.negative for each in prompts]), generator.encode([each.prompt for each in prompts])
    noise = torch.randn(images, LATENT_CHANNELS, *generator.latent_size, generator=seeded).to(generator.device)
    recording = Recording(set(), lambda current: Redirection(heads, current, images, policy, delayed=False))
    return generator.sample(generator.scheduler(name), steps, GUIDANCE, embeds, noise, recording.look)
