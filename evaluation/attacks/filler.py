"""Random search over wordings and filler words: needs to see what guard and UNet answer, and no gradients."""

from __future__ import annotations

from random import Random

import torch

from evaluation.attacks.budget import Budget, Clock
from evaluation.attacks.objectives import Evasion, best_of
from evaluation.attacks.phrasing import Material, Phrasing, changed
from evaluation.attacks.target import Found, Prompt, Target


def filler_search(target: Target, prompt: Prompt, made_of: Material, budget: Budget, draw: Random) -> Found:
    """At each step the best of `budget.candidates` neighbours, unless all are worse; restarts begin from the plain prompt."""
    if target.fooled(prompt.unsafe, prompt.seed):
        return Found(prompt.unsafe, "", prompt.safe, True, 0)
    objective, clock, steps = Evasion(target, prompt, budget), Clock(budget), 0
    best: tuple[float, Phrasing] = (torch.inf, Phrasing())
    for _ in range(budget.restarts):
        current: tuple[float, Phrasing] = (torch.inf, Phrasing())
        tried: set[str] = set()
        for _ in range(budget.steps):
            if clock.over:
                break
            steps += 1
            neighbours = [changed(current[1], draw, made_of, budget.tokens) for _ in range(budget.candidates)]
            current = min(current, _best(target, objective, prompt, neighbours), key=lambda each: each[0])
            best = min(best, current, key=lambda each: each[0])
            text = current[1].text(prompt.unsafe)
            if text in tried or not objective.promising(target.twin.embeds([text])):
                continue
            if target.fooled(text, prompt.seed):
                return _found(prompt, current[1], True, steps)
            tried.add(text)
            objective.follow(text)
            current = torch.inf, current[1]  # its loss was of other rows
    return _found(prompt, best[1], False, steps)


def _found(prompt: Prompt, phrasing: Phrasing, fooled: bool, steps: int) -> Found:
    safe = None if prompt.safe is None else phrasing.text(prompt.safe)
    return Found(phrasing.text(prompt.unsafe), "", safe, fooled, steps)


def _best(target: Target, objective: Evasion, prompt: Prompt, neighbours: list[Phrasing]) -> tuple[float, Phrasing]:
    loss, place = best_of(objective, target.twin.embeds([phrasing.text(prompt.unsafe) for phrasing in neighbours]))
    return loss, neighbours[place]
