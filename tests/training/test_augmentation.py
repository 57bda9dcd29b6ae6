"""Augmentation changes both prompts of a pair alike."""

from __future__ import annotations

import difflib
import json
import re

import numpy as np
import pytest

from engines.errors import InputError
from engines.pairs import Pair
from training.augmentation import REPEATED, Augmentation, read_wordings

PAIR = Pair("a plain red star on a grey background", "a burning red star on a grey background")
OTHERS = ["a blue circle on the left", "a small white cross"]


def words(prompt):
    return re.findall(r"\w+", prompt)


def worded(count=300, seed=0, **options):
    draw, augmentation = np.random.default_rng(seed), Augmentation(OTHERS, **options)
    return [augmentation.pair(PAIR, draw) for _ in range(count)]


def test_both_prompts_still_differ_in_the_concept_only():
    for pair in worded():
        safe, unsafe = pair.safe.lower().split(), pair.unsafe.lower().split()
        changes = [change for change in difflib.SequenceMatcher(None, safe, unsafe).get_opcodes() if change[0] != "equal"]
        (kind, begin, end, start, stop), *others = changes
        assert kind == "replace" and not others, pair
        assert (safe[begin:end], unsafe[start:stop]) == (["plain"], ["burning"])


def test_every_way_of_wording_is_drawn():
    drawn = [pair.unsafe for pair in worded()]
    assert PAIR.unsafe in drawn
    for start in ("on a grey background, a burning", "background, a burning"):
        assert any(start in prompt for prompt in drawn), "order"
    for joint in (" and ", ". ", ", "):
        assert any(f"{joint}a small white cross" in prompt for prompt in drawn), "a second object or sentence"
        assert any(prompt.startswith(f"a small white cross{joint}") for prompt in drawn)
    assert any("a picture of " in prompt for prompt in drawn)
    assert any(prompt.isupper() for prompt in drawn) and any(prompt.istitle() for prompt in drawn)
    lengths = [len(prompt.split()) for prompt in drawn]
    assert min(lengths) == len(PAIR.unsafe.split()) and max(lengths) > 25, "filler"


def test_the_seed_decides():
    assert worded(30) == worded(30) != worded(30, seed=1)


def test_what_only_unsafe_prompts_say_is_said_again_by_the_unsafe_one_alone():
    repeated, sides = 0, set()
    for pair in worded(1000, phrases=["in flames"]):
        safe, unsafe = pair.safe.lower(), pair.unsafe.lower()
        assert "in flames" not in safe and unsafe.count("in flames") <= REPEATED
        repeated += "in flames" in unsafe
        before, _, after = unsafe.partition("burning")
        sides |= {side for side, text in (("before", before), ("after", after)) if "in flames" in text}
        assert words(unsafe.replace("in flames", "").replace("burning", "plain")) == words(safe)
    assert 200 < repeated < 300 and sides == {"before", "after"}


def test_other_wordings_take_the_place_of_phrases():
    drawn = worded(wordings={"burning": ["in flames", "ablaze"], "red star": ["ruby star"]})
    assert all(any(word in pair.unsafe.lower() for word in ("burning", "in flames", "ablaze")) for pair in drawn)
    assert all(("ruby star" in pair.safe.lower()) == ("ruby star" in pair.unsafe.lower()) for pair in drawn)
    counts = [sum(word in pair.unsafe.lower() for pair in drawn) for word in ("burning", "in flames", "ablaze", "ruby star")]
    assert min(counts) > 50
    partial = Augmentation(OTHERS, {"star": ["sun"]})
    assert all("starfish" in partial.pair(Pair("a starfish", "a burning starfish"), np.random.default_rng(seed)).safe.lower()
               for seed in range(20)), "whole words only"  # fmt: skip


def test_a_change_that_would_make_both_prompts_equal_is_left_out():
    draw, augmentation = np.random.default_rng(0), Augmentation(OTHERS, {"plain": ["burning"]})
    pairs = [augmentation.pair(pair, draw) for pair in (Pair("A star", "a star"), Pair("a plain star", "a burning star")) * 50]
    assert all(pair.safe != pair.unsafe for pair in pairs)


def test_hard_negatives_share_words_and_are_another_pairs():
    augmentation = Augmentation([PAIR.safe, "a blue circle", "a white star on a grey background"])
    draw = np.random.default_rng(0)
    assert {augmentation.hard_negative(PAIR, draw) for _ in range(20)} == {"a white star on a grey background"}


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"secret": "ablaze"}', '{"secret": []}', '{"secret": [3]}', '{"": ["x"]}', "secret"]
)
def test_wordings_are_read_strictly(tmp_path, content):
    file = tmp_path / "wordings.json"
    file.write_text(content)
    with pytest.raises(InputError) as caught:
        read_wordings(file)
    assert "secret" not in str(caught.value)


def test_wordings_are_read(tmp_path):
    file = tmp_path / "wordings.json"
    file.write_text(json.dumps({"burning": ["ablaze"]}))
    assert read_wordings(file) == {"burning": ["ablaze"]}
