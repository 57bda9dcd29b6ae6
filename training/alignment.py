"""Which token of the safe prompt stands for each token of the unsafe one: insertions, deletions, replacements, other orders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engines.networks import TOKENS


@dataclass(frozen=True)
class Alignment:
    """For each of the 77 positions of the encoded unsafe prompt: the position of its counterpart in the encoded safe prompt, and
    whether it is a token that the safe prompt lacks, which is the target of the token mask."""

    places: list[int]
    differs: list[bool]

    def target_shift(self, safe_embeds: Tensor, unsafe_embeds: Tensor) -> Tensor:
        """e_safe − e_unsafe [77, D] of corresponding tokens, from the embeddings [77, D] of both prompts.

        Its length, in units of the unsafe token's, is the target of alpha.
        """
        return safe_embeds[torch.tensor(self.places)] - unsafe_embeds


def align(safe: Sequence[int], unsafe: Sequence[int]) -> Alignment:
    """Align two prompts, given as their token ids without start, end and padding, however many.

    A token that the safe prompt lacks is given the place of the token that it replaces, or, where it was inserted, of the one
    that follows. End stands for end, padding for padding. What the encoding cuts off after 75 tokens still takes part, so that
    the rest corresponds rightly; a counterpart that was cut off is replaced by the last place that was not.
    """
    counterparts = _tiles(safe, unsafe)
    taken = {place for place in counterparts if place is not None}
    places, differs, after, step = [0], [False], 0, 0  # the start; place after the last counterpart, and steps from there
    for counterpart in counterparts:
        if counterpart is None:
            replaced = after + step < len(safe) and after + step not in taken
            places.append(1 + after + (step if replaced else max(step - 1, 0)))
            step += replaced
        else:
            places.append(1 + counterpart)
            after, step = counterpart + 1, 0
        differs.append(counterpart is None)
    last = TOKENS - 1
    safe_end, unsafe_end = min(1 + len(safe), last), min(1 + len(unsafe), last)
    padding = [max(place, safe_end) for place in range(unsafe_end + 1, TOKENS)]
    places = [min(place, safe_end) for place in places[:unsafe_end]] + [safe_end] + padding
    return Alignment(places, differs[:unsafe_end] + [False] * (TOKENS - unsafe_end))


def _tiles(safe: Sequence[int], unsafe: Sequence[int]) -> list[int | None]:
    """For each token of `unsafe` its place in `safe`, or None: common beginning and end, then greedy string tiling (Wise 1993).

    The longest run of tokens that both have and that no earlier run covers is matched, until there is none. Of equal runs the one
    that was moved least comes first.
    """
    places: list[int | None] = [None] * len(unsafe)
    free = [True] * len(safe)
    shorter = min(len(safe), len(unsafe))
    same = next((place for place in range(shorter) if safe[place] != unsafe[place]), shorter)
    ends = next((size for size in range(shorter - same) if safe[-1 - size] != unsafe[-1 - size]), shorter - same)
    for place in (*range(same), *range(len(unsafe) - ends, len(unsafe))):
        places[place] = place if place < same else place + len(safe) - len(unsafe)
        free[places[place]] = False
    while True:
        size, _, start, place = max(_runs(safe, unsafe, free, places), default=(0, 0, 0, 0))
        if not size:
            return places
        for offset in range(size):
            places[start + offset], free[place + offset] = place + offset, False


def _runs(
    safe: Sequence[int], unsafe: Sequence[int], free: Sequence[bool], places: Sequence[int | None]
) -> list[tuple[int, int, int, int]]:
    """Every maximal common run of free tokens: its length, minus how far it was moved, its starts in `unsafe` and in `safe`."""
    found = []
    lengths = [0] * (len(safe) + 1)  # of the common run that ends before each token of `safe`
    for end, token in enumerate(unsafe):
        previous, lengths = lengths, [0] * (len(safe) + 1)
        if places[end] is not None:
            continue
        for place, other in enumerate(safe):
            if token == other and free[place]:
                size = lengths[place + 1] = previous[place] + 1
                found.append((size, -abs(place - end), end + 1 - size, place + 1 - size))
    return found
