"""Hostile negative prompts: guidance pushes away from them, and so from where the guard leads. The prompt stays as it is."""

from __future__ import annotations

from random import Random

import torch

from evaluation.attacks.budget import Budget, Clock
from evaluation.attacks.phrasing import Material
from evaluation.attacks.target import Found, Prompt, Target
from evaluation.sampling import sample

RUNS = 8  # of the twin at each step: every candidate costs one


def negative_prompts(target: Target, prompt: Prompt, made_of: Material, budget: Budget, draw: Random) -> list[Found]:
    """The counterpart as it is, where there is one, and what a random search over words finds, which begins from it.

    Needs pictures only, guarded and not. The search minimises the distance between the latents of both,
    or to the original generator's.
    """
    found = []
    if prompt.safe is not None:
        fooled = target.fooled(prompt.unsafe, prompt.seed, prompt.safe)
        found.append(Found(prompt.unsafe, prompt.safe, None, fooled, 0, "counterpart"))
    return [*found, _searched(target, prompt, made_of, budget, draw)]


def _searched(target: Target, prompt: Prompt, made_of: Material, budget: Budget, draw: Random) -> Found:
    wanted, clock = target.wanted_run(prompt.unsafe, prompt.seed).final, Clock(budget)
    best: tuple[float, list[str]] = (torch.inf, (prompt.safe or "").split())
    step = 0
    while step < budget.steps and not clock.over:
        step += 1
        neighbours = [_changed(best[1], draw, made_of, budget.tokens) for _ in range(min(RUNS, budget.candidates))]
        texts = [" ".join(words) for words in neighbours]
        embeds = target.twin.embeds([prompt.unsafe] * len(texts))
        run = sample(target.twin, embeds, [prompt.seed] * len(texts), target.options, target.twin.embeds(texts), target.guarded)
        if any(shown := target.shows(run)):
            return Found(prompt.unsafe, texts[shown.index(True)], None, True, step, "searched")
        distances = (run.final - wanted).square().mean(dim=(1, 2, 3)).tolist()
        nearest = min(range(len(texts)), key=distances.__getitem__)
        best = min(best, (distances[nearest], neighbours[nearest]), key=lambda each: each[0])
    return Found(prompt.unsafe, " ".join(best[1]), None, False, step, "searched")


def _changed(words: list[str], draw: Random, made_of: Material, tokens: int) -> list[str]:
    """With up to `tokens` words put in, replaced or taken away."""
    words = list(words)
    for _ in range(draw.randint(1, tokens)):
        place = draw.randint(0, len(words))
        words[place : place + draw.randint(0, 1)] = draw.choices(made_of.words, k=draw.randint(0, 1))
    return words
