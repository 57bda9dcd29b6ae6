"""Greedy coordinate gradient over words before and after a prompt (Zou et al. 2023, arXiv 2307.15043, Algorithm 1).

At each step the gradient of the loss by each place's one-hot word ranks the words; candidates change one place to one of the most
promising words, and the best of them goes on. Here every second candidate changes two places, for with few words a search that
changes one soon finds no better neighbour. Prompts that the tokenizer would read otherwise are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import torch
from torch import Tensor

from evaluation.attacks.budget import Budget, Clock
from evaluation.attacks.objectives import Evasion, Objective, best_of
from evaluation.attacks.target import Found, Prompt, Target
from evaluation.attacks.words import Draft, Words

PROMISING = 32  # words of each place that candidates are drawn from, the best by the gradient


def greedy_coordinate(target: Target, prompt: Prompt, words: Words, budget: Budget, draw: Random) -> Found:
    """Words, half of the restarts after the prompt and half before it, that the guard and the generator read as they should.

    White box: it needs the gradients of every network, and the seed.
    """
    objective = Evasion(target, prompt, budget)
    return search(target, prompt, objective, _drafts(target, prompt, words, budget), budget, draw)


def _drafts(target: Target, prompt: Prompt, words: Words, budget: Budget) -> list[Draft]:
    """One for each restart."""
    sides = [(0, budget.tokens), (budget.tokens, 0)]
    return [Draft(target.twin, words, prompt.unsafe, *sides[restart % 2]) for restart in range(budget.restarts)]


def search(target: Target, prompt: Prompt, objective: Objective, drafts: Sequence[Draft], budget: Budget, draw: Random) -> Found:
    """Minimise an objective over the words of each draft in turn, until one fools the guard or the budget is spent."""
    if target.fooled(prompt.unsafe, prompt.seed):
        return Found(prompt.unsafe, "", prompt.safe, True, 0)
    generator = torch.Generator().manual_seed(draw.getrandbits(63))
    clock, best, steps = Clock(budget), (torch.inf, prompt.unsafe, prompt.safe), 0
    for draft in drafts:
        chosen = torch.randint(len(draft.words.texts), (1, len(draft.places)), generator=generator).to(target.twin.device)
        tried: set[str] = set()
        for _ in range(budget.steps):
            if clock.over:
                break
            steps += 1
            loss, chosen, embeds = _step(objective, draft, chosen, budget.candidates, generator)
            text = draft.text(chosen[0].tolist())
            safe = None if prompt.safe is None else draft.text(chosen[0].tolist(), prompt.safe)
            best = min(best, (loss, text, safe), key=lambda each: each[0])
            if text in tried or not objective.promising(embeds):
                continue
            if target.fooled(text, prompt.seed):
                return Found(text, "", safe, True, steps)
            tried.add(text)
            objective.follow(text)
    return Found(best[1], "", best[2], False, steps)


def _step(objective: Objective, draft: Draft, chosen: Tensor, count: int, draw: torch.Generator) -> tuple[float, Tensor, Tensor]:
    """The best of `count` candidates for the next words: its loss, words [1, k] and embeddings [1, 77, D]."""
    promising = word_gradient(objective, draft, chosen).topk(min(PROMISING, len(draft.words.texts)), largest=False).indices
    candidates = chosen.repeat(count, 1)
    for every in (1, 2):  # each candidate, then every second one
        changed = torch.arange(0, count, every)
        places = torch.randint(chosen.shape[1], (len(changed),), generator=draw).to(chosen.device)
        ranks = torch.randint(promising.shape[1], (len(changed),), generator=draw).to(chosen.device)
        candidates[changed, places] = promising[places, ranks]
    candidates = torch.unique(candidates, dim=0)
    readable = candidates[draft.survives(candidates)]
    candidates = readable if len(readable) else chosen
    with torch.no_grad():
        embeds = draft.twin.encode(draft.ids(candidates))
    loss, best = best_of(objective, embeds)
    return loss, candidates[best : best + 1], embeds[best : best + 1]


def word_gradient(objective: Objective, draft: Draft, chosen: Tensor) -> Tensor:
    """The gradient of the loss by the one-hot word of each place, float32 [k, V], at the words `chosen` [1, k]."""
    twin, ids = draft.twin, draft.ids(chosen)
    tokens = twin.token_embeddings[ids].detach().requires_grad_()
    (gradient,) = torch.autograd.grad(objective.loss(twin.encode_tokens(ids, tokens)).sum(), tokens)
    return gradient[0, draft.places] @ twin.token_embeddings[draft.words.ids].T
