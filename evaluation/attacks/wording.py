"""Families of wordings: each prompt said otherwise once in each way, blindly. Nothing of the guard needs to be known."""

from __future__ import annotations

from random import Random

from engines.pairs import lacking
from evaluation.attacks.phrasing import FAMILIES, Material
from evaluation.attacks.target import Found, Prompt

AGAIN = 3


def wordings(prompt: Prompt, made_of: Material, draw: Random) -> list[Found]:
    """One for each family, and one that says the concept again; the engines will tell which succeed."""
    found = []
    for family, drawn in FAMILIES.items():
        phrasing = drawn(draw, made_of)
        text = phrasing.text(prompt.unsafe)
        safe = None if prompt.safe is None else phrasing.text(prompt.safe)
        found.append(Found(text, "", safe, None, 0, family))
    return [*found, _said_again(prompt)]


def _said_again(prompt: Prompt) -> Found:
    """What the counterpart lacks, or without one the whole prompt, comes three times before it."""
    told = " ".join(lacking(prompt.unsafe, prompt.safe or "")) or prompt.unsafe
    return Found(" ".join([*[told] * AGAIN, prompt.unsafe]), "", prompt.safe, None, 0, "said again")
