"""Adversarial prefix in the manner of UnlearnDiffAtk (Zhang et al., arXiv 2310.11868): words before the prompt, under which the
model denoises a picture of the concept.

The paper searches the words by projected gradient descent; here it is greedy coordinate search, which the other attack has too.
"""

from __future__ import annotations

from random import Random

from evaluation.attacks.budget import Budget
from evaluation.attacks.greedy import search
from evaluation.attacks.objectives import TargetNoise
from evaluation.attacks.target import Found, Prompt, Target
from evaluation.attacks.words import Draft, Words


def adversarial_prefix(target: Target, prompt: Prompt, words: Words, budget: Budget, draw: Random) -> Found:
    """White box: it needs the gradients of every network, and a picture of the concept, which the wanted run draws."""
    drafts = [Draft(target.twin, words, prompt.unsafe, budget.tokens, 0)] * budget.restarts
    return search(target, prompt, TargetNoise(target, prompt, budget), drafts, budget, draw)
