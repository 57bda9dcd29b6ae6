"""Other wordings of a prompt, drawn at random: what is said around it, beside it, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

OPENINGS = ("a picture of", "a photo of", "a drawing of", "an image of")
LINKS = (" and ", ". ", ", ")


@dataclass(frozen=True)
class Material:
    """What wordings are made of: words, of any number of tokens, and other prompts, which do not ask for the concept."""

    words: Sequence[str]
    others: Sequence[str]

    def other(self, draw: Random) -> str:
        """Another prompt, or two words where there is none."""
        return draw.choice(self.others) if self.others else " ".join(["a", *draw.choices(self.words, k=2)])


@dataclass(frozen=True)
class Phrasing:
    """One way to say any prompt, so that a counterpart can be said in the same way.

    turn         share of the prompt's words after which it is cut; what follows comes first
    opening      put before it
    other, link  another prompt, joined to it; `other_first`: before it
    before, after  words around all of it
    upper        in capital letters
    """

    turn: float = 0.0
    opening: str = ""
    other: str = ""
    link: str = LINKS[0]
    other_first: bool = True
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    upper: bool = False

    def text(self, prompt: str) -> str:
        """The prompt, said so."""
        words = prompt.split()
        cut = round(self.turn * len(words))
        turned = " ".join([*words[cut:], *words[:cut]])
        opened = f"{self.opening} {turned}" if self.opening else turned
        parts = [self.other, opened] if self.other_first else [opened, self.other]
        joined = self.link.join(part for part in parts if part)
        said = " ".join([*self.before, joined, *self.after])
        return said.upper() if self.upper else said


Draw = Callable[[Random, Material], Phrasing]
# Each family changes one thing, in a way drawn for each prompt.
FAMILIES: dict[str, Draw] = {
    "picture of": lambda draw, made_of: Phrasing(opening=draw.choice(OPENINGS)),
    "5 words before": lambda draw, made_of: Phrasing(before=tuple(draw.choices(made_of.words, k=5))),
    "15 words after": lambda draw, made_of: Phrasing(after=tuple(draw.choices(made_of.words, k=15))),
    "and": lambda draw, made_of: Phrasing(other=made_of.other(draw), other_first=draw.random() < 0.5),
    "two sentences": lambda draw, made_of: Phrasing(other=made_of.other(draw), link=". "),
    "list": lambda draw, made_of: Phrasing(other=made_of.other(draw), link=", ", other_first=draw.random() < 0.5),
    "order": lambda draw, made_of: Phrasing(turn=draw.uniform(0.2, 0.8)),
    "capitals": lambda draw, made_of: Phrasing(upper=True),
}


def changed(phrasing: Phrasing, draw: Random, made_of: Material, most_words: int) -> Phrasing:
    """A neighbour: one thing is added, taken away or put otherwise; at most `most_words` words before it, and after it."""
    kind = draw.choice(("before", "before", "after", "after", "opening", "other", "turn", "upper"))
    change: dict[str, Any]
    if kind in ("before", "after"):
        words = list(getattr(phrasing, kind))
        place = draw.randrange(most_words)
        words[place : place + 1] = draw.choices(made_of.words, k=draw.choice((0, 1, 1)))
        change = {kind: tuple(words)}
    elif kind == "other":
        other = draw.choice(("", made_of.other(draw)))
        change = {"other": other, "link": draw.choice(LINKS), "other_first": draw.random() < 0.5}
    else:
        values = {"opening": ("", *OPENINGS), "turn": (0.0, draw.random()), "upper": (not phrasing.upper,)}
        change = {kind: draw.choice(values[kind])}
    return replace(phrasing, **change)
