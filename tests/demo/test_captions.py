"""Captions say what a scene shows, in every wording."""

from __future__ import annotations

from dataclasses import replace

import pytest

from demo.captions import Said, Wording, caption, write
from demo.scene import Scene, Thing

BURNING = Scene("square", "blue", "small", "at the top of", "mint", burning=True)
TWO = Scene("square", "blue", background="mint", second=Thing("star", "red", burning=True))
NOT = Said(after=" that is not burning")


@pytest.mark.parametrize(
    "scene, wording, expected",
    [
        (BURNING, Wording(), "a burning small blue square at the top of a mint background"),
        (BURNING, Wording(word_first=False), "a small burning blue square at the top of a mint background"),
        (BURNING.plain, Wording(), "a small blue square at the top of a mint background"),
        (BURNING, Wording(fire=(Said("ignited"),) * 2), "an ignited small blue square at the top of a mint background"),
        (Scene("square", "blue"), Wording(terse=True), "a blue square"),
        (TWO, Wording("{first} and {second} {place}"), "a blue square and a burning red star on a mint background"),
        (TWO, Wording("{first} {place}. {second}"), "a blue square on a mint background. a burning red star"),
        (TWO, Wording("{first}, {second}, {place}", article=""), "blue square, burning red star, on a mint background"),
        (TWO, Wording("{first} and {second} {place}", calm=(NOT, NOT)),
         "a blue square that is not burning and a burning red star on a mint background"),
        (replace(TWO, background="grey"), Wording("{first}, {second}, {place}", terse=True), "a blue square, a burning red star"),
        (replace(BURNING, style="dots"), Wording(styles=(("dots", "by pointel"),), opening="a photo of", ending="!", upper=True),
         "A PHOTO OF A BURNING SMALL BLUE SQUARE AT THE TOP OF A MINT BACKGROUND BY POINTEL!"),
        (BURNING, Wording("{place}, {first}", filler_before="very nice", filler_after="today",
            fire=(Said(after=". it is on fire"),) * 2),
         "very nice at the top of a mint background, a small blue square. it is on fire today"),
        (BURNING, Wording("{first}, {place}", fire=(Said(after=", alight,"),) * 2),
         "a small blue square, alight, at the top of a mint background"),
    ],
)  # fmt: skip
def test_captions(scene, wording, expected):
    assert write(scene, wording) == expected


def test_plain_captions():
    assert caption(BURNING, "in flames", terse=True) == "a small blue square in flames at the top of a mint background"
    assert caption(Scene("star", "red"), "plain", terse=True) == "a plain red star"


@pytest.mark.parametrize("scene, word", [(Scene("star", "red"), "burning"), (BURNING, "plain"), (BURNING, "on fire")])
def test_a_word_must_fit_its_scene(scene, word):
    with pytest.raises(ValueError, match="does not describe"):
        caption(scene, word)
