"""Alignment of token ids: each kind of difference, also beyond what is encoded."""

from __future__ import annotations

import pytest
import torch

from engines.networks import TOKENS
from training.alignment import align

A, RED, STAR, ON, GREY, GROUND, BURNING, IN, FLAMES, PLAIN = range(10, 20)
SAFE = [A, RED, STAR, ON, A, GREY, GROUND]


def places(safe, unsafe):
    """The places of the unsafe prompt's own tokens, and those that the safe one lacks; both count from its first token."""
    found = align(safe, unsafe)
    assert len(found.places) == len(found.differs) == TOKENS
    assert found.places[0] == 0 and not found.differs[0], "start stands for start"
    assert found.places[len(unsafe) + 1 :][0] == len(safe) + 1, "end stands for end"
    own = slice(1, len(unsafe) + 1)
    assert not any(found.differs[len(unsafe) + 1 :])
    return [place - 1 for place in found.places[own]], [index for index, differs in enumerate(found.differs[own]) if differs]


def test_equal_prompts_correspond_token_by_token():
    assert align(SAFE, SAFE).places == [*range(TOKENS)]
    assert not any(align(SAFE, SAFE).differs)


@pytest.mark.parametrize(
    "safe, unsafe, expected, lacking",
    [
        (SAFE, [A, BURNING, *SAFE[1:]], [0, 1, 1, 2, 3, 4, 5, 6], [1]),
        (SAFE, [*SAFE[:3], IN, FLAMES, *SAFE[3:]], [0, 1, 2, 3, 3, 3, 4, 5, 6], [3, 4]),
        ([A, PLAIN, *SAFE[1:]], [A, BURNING, *SAFE[1:]], [0, 1, 2, 3, 4, 5, 6, 7], [1]),
        ([A, PLAIN, *SAFE[1:]], [*SAFE[:1], *SAFE[1:]], [0, 2, 3, 4, 5, 6, 7], []),
        ([A, PLAIN, STAR], [A, IN, FLAMES, STAR], [0, 1, 1, 2], [1, 2]),
        ([A, PLAIN, RED, STAR], [A, IN, FLAMES, STAR], [0, 1, 2, 3], [1, 2]),
        ([A, STAR], [A, STAR, IN, FLAMES], [0, 1, 2, 2], [2, 3]),
        (SAFE, [ON, A, GREY, GROUND, A, BURNING, RED, STAR], [3, 4, 5, 6, 0, 1, 1, 2], [5]),
        ([RED, STAR], [], [], []),
    ],
    ids=[
        "insertion",
        "two inserted",
        "replacement",
        "deletion",
        "one by two",
        "two by two",
        "at the end",
        "reordered",
        "none left",
    ],
)
def test_kinds_of_difference(safe, unsafe, expected, lacking):
    assert places(safe, unsafe) == (expected, lacking)


def test_a_repeated_word_is_matched_where_it_stands():
    assert places([A, STAR, ON, A, STAR], [A, STAR, ON, A, BURNING, STAR]) == ([0, 1, 2, 3, 4, 4], [4])


def test_padding_stands_for_padding():
    found = align(SAFE, [A, BURNING, *SAFE[1:]])
    assert found.places[9] == 8  # the ends
    assert found.places[10:] == [*range(10, TOKENS)]
    shorter = align([A, PLAIN, *SAFE[1:]], SAFE)
    assert shorter.places[8:11] == [9, 9, 10]  # position 9 is the safe prompt's end, and padding in the unsafe one


def test_tokens_beyond_the_encoded_ones_still_align():
    filler = [*range(100, 180)]
    found = align([*filler[:74], RED, STAR], [*filler[:73], BURNING, filler[73], RED, STAR])
    assert found.places[74:] == [74, 74, 76]  # the inserted word, the filler after it, the end; red and star were cut off
    assert [index for index, differs in enumerate(found.differs) if differs] == [74]
    moved = align([*filler, STAR], [STAR, *filler])
    assert moved.places[:3] == [0, 76, 1], "a counterpart that was cut off is the last place"


def test_target_shift_takes_corresponding_tokens():
    safe, unsafe = torch.randn(2, TOKENS, 8, generator=torch.Generator().manual_seed(0))
    shift = align(SAFE, [A, BURNING, *SAFE[1:]]).target_shift(safe, unsafe)
    torch.testing.assert_close(shift[2] + unsafe[2], safe[2])
    torch.testing.assert_close(shift[3] + unsafe[3], safe[2])
    torch.testing.assert_close(shift[8] + unsafe[8], safe[7])
