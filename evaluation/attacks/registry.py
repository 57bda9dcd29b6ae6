"""The attacks, one row each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from evaluation.attacks.budget import Budget
from evaluation.attacks.embedding import embedding_search
from evaluation.attacks.filler import filler_search
from evaluation.attacks.greedy import greedy_coordinate
from evaluation.attacks.negative import negative_prompts
from evaluation.attacks.phrasing import Material
from evaluation.attacks.prefix import adversarial_prefix
from evaluation.attacks.target import Found, Prompt, Target
from evaluation.attacks.wording import wordings
from evaluation.attacks.words import Words


@dataclass(frozen=True, eq=False)
class Means:
    """What the attacks of one run have: words of one token each, what wordings are made of, and what may be spent on a prompt."""

    words: Words
    made_of: Material
    budget: Budget


@dataclass(frozen=True)
class Attack:
    """How to attack one prompt, and what its attacker must have."""

    search: Callable[[Target, Prompt, Means, Random], list[Found]]
    needs: str


ATTACKS = {
    "wording": Attack(
        lambda target, prompt, means, draw: wordings(prompt, means.made_of, draw), "nothing: families of wordings, blindly"
    ),
    "filler": Attack(
        lambda target, prompt, means, draw: [filler_search(target, prompt, means.made_of, means.budget, draw)],
        "the networks' answers: random search over wordings and words around the prompt",
    ),
    "greedy": Attack(
        lambda target, prompt, means, draw: [greedy_coordinate(target, prompt, means.words, means.budget, draw)],
        "the weights: greedy coordinate gradient over words before or after the prompt",
    ),
    "prefix": Attack(
        lambda target, prompt, means, draw: [adversarial_prefix(target, prompt, means.words, means.budget, draw)],
        "the weights: words before the prompt that make the guarded model denoise a picture of the concept",
    ),
    "negative": Attack(
        lambda target, prompt, means, draw: negative_prompts(target, prompt, means.made_of, means.budget, draw),
        "pictures, guarded and not: the counterpart as negative prompt, and one that is searched",
    ),
    "embedding": Attack(
        lambda target, prompt, means, draw: [embedding_search(target, prompt, means.budget)],
        "the weights, and to put in embeddings: an upper bound, out of reach of whoever writes prompts",
    ),
}


def search(name: str, target: Target, prompt: Prompt, means: Means, seed: str) -> list[Found]:
    """What an attack finds for a prompt. The seed's text decides all that is drawn."""
    return ATTACKS[name].search(target, prompt, means, Random(f"{seed}/{name}"))
