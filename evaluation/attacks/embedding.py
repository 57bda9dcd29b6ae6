"""Projected gradient descent on the prompt's embedding (Madry et al. 2018, arXiv 1706.06083).

An upper bound, out of reach of whoever can only write prompts: most embeddings near a prompt's belong to no text.
"""

from __future__ import annotations

import torch
from torch import Tensor

from evaluation.attacks.budget import Budget, Clock
from evaluation.attacks.objectives import Evasion, Objective
from evaluation.attacks.target import Found, Prompt, Target
from evaluation.sampling import sample

RADIUS = 0.1  # of the box, in root mean squares of the prompt's embedding
STRIDE = 0.25  # of the radius, for each step


def embedding_search(target: Target, prompt: Prompt, budget: Budget) -> Found:
    """Whether an embedding within RADIUS of the prompt's, in each coordinate, fools the twin."""
    twin, objective, clock = target.twin, Evasion(target, prompt, budget), Clock(budget)
    original = twin.embeds([prompt.unsafe])
    radius = RADIUS * original.square().mean().sqrt()
    shift, step = torch.zeros_like(original), 0
    while True:
        embeds = original + shift
        if step == 0 or objective.promising(embeds):
            if target.shows(sample(twin, embeds, [prompt.seed], target.options, guarded=target.guarded))[0]:
                return Found("", "", None, True, step)
        if step == budget.steps or clock.over:
            return Found("", "", None, False, step)
        step += 1
        shift = descended(objective, original, shift, radius)


def descended(objective: Objective, original: Tensor, shift: Tensor, radius: Tensor) -> Tensor:
    """The next shift [1, 77, D], each coordinate within the radius."""
    shift = shift.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(objective.loss(original + shift).sum(), shift)
    return (shift.detach() - STRIDE * radius * gradient.sign()).clamp(-radius, radius)
