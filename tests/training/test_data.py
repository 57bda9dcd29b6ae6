"""Pairs to train on and pairs held out."""

from __future__ import annotations

import pytest

from engines.errors import InputError
from engines.pairs import Pair
from training.data import held_out


def test_the_seed_holds_pairs_out():
    pairs = [Pair(f"{number}", f"burning {number}") for number in range(20)]
    training, apart = held_out(pairs, 0.1, 0)
    assert len(apart) == 2 and sorted([*training, *apart], key=pairs.index) == pairs
    assert held_out(pairs, 0.1, 0) == (training, apart) != held_out(pairs, 0.1, 1)
    assert [len(part) for part in held_out(pairs[:2], 0.0, 0)] == [len(part) for part in held_out(pairs[:2], 0.9, 0)] == [1, 1]
    with pytest.raises(InputError, match="at least 2"):
        held_out(pairs[:1], 0.1, 0)
