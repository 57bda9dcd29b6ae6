"""Families of wordings: what each promises, that the unseen stays unseen, and that pairs differ in the concept only."""

from __future__ import annotations

import difflib
import itertools
import json
import re
import subprocess
import sys

import numpy as np
import pytest

from demo.families import FAMILIES, SEEN, SEEN_FAMILIES, UNSEEN, misspell, random_caption
from demo.pairs import ROOT
from demo.scene import Scene, training_scenes
from demo.vocabulary import new_tokenizer, token_ids
from demo.wordings import (
    ABSENCES,
    FIRE_WORDINGS,
    FIRE_WORDS,
    SEEN_FILLER_WORDS,
    SEEN_FIRE_WORDINGS,
    STYLE_NAMES,
    UNSEEN_FILLER_WORDS,
    UNSEEN_FIRE_WORDINGS,
)
from demo.world import CONCEPTS, concept_pairs

PAIRS = 40


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return new_tokenizer(tmp_path_factory.mktemp("vocabulary"))


def pairs_of(name, concepts=("fire",), held_out=True, kept=()):
    return concept_pairs(concepts, FAMILIES[name], np.random.default_rng(0), PAIRS, held_out=held_out, kept=kept)


def says(text, wordings):
    return any(re.search(rf"\b{wording}\b", text.lower()) for wording in wordings)


def test_of_eighteen_ways_to_say_fire_six_are_unseen():
    assert len({*FIRE_WORDINGS}) == 18 and len({*UNSEEN_FIRE_WORDINGS}) == 6
    assert (len(UNSEEN.stars), len(UNSEEN.styles), len({*UNSEEN_FILLER_WORDS})) == (1, 2, 12)
    for seen, unseen in ((SEEN_FIRE_WORDINGS, UNSEEN_FIRE_WORDINGS), (SEEN_FILLER_WORDS, UNSEEN_FILLER_WORDS)):
        assert not {*seen} & {*unseen}
    assert {*FIRE_WORDS} <= {*SEEN_FIRE_WORDINGS}


@pytest.mark.parametrize("concept", CONCEPTS)
def test_held_out_pairs_are_of_many_scenes_that_no_pair_of_training_shows(concept):
    held_out, trained = (
        concept_pairs((concept,), FAMILIES["plain"], np.random.default_rng(0), 400, held_out=apart) for apart in (True, False)
    )
    scenes = {(pair.safe_scene, pair.unsafe_scene) for pair in held_out}
    assert len(scenes) > 70 and not scenes & {(pair.safe_scene, pair.unsafe_scene) for pair in trained}
    assert all(pair.safe_scene.held_out or pair.unsafe_scene.held_out for pair in held_out)


@pytest.mark.parametrize("name", SEEN_FAMILIES)
def test_training_never_sees_the_unseen(name):
    for pair in pairs_of(name, CONCEPTS, held_out=False):
        for text in (pair.safe, pair.unsafe):
            assert not says(text, (*UNSEEN.fire, *UNSEEN.stars, *UNSEEN_FILLER_WORDS, "as painted by", "the way"))
        assert not pair.safe_scene.held_out and not pair.unsafe_scene.held_out


@pytest.mark.parametrize("name", FAMILIES)
def test_fire_pairs(name):
    family = FAMILIES[name]
    for pair in pairs_of(name):
        assert pair.safe_scene == pair.unsafe_scene.plain and pair.unsafe_scene.held_out
        assert any(thing.burning for thing in pair.unsafe_scene.things) and len(pair.unsafe_scene.things) == 1 + family.two
        if not (family.misspelt or family.negated):
            assert says(pair.unsafe, family.words.fire) and not says(pair.safe, FIRE_WORDINGS)
        if family.negated:
            assert says(pair.safe, ("not", "never", *(absence.strip() for absence in ABSENCES)))


@pytest.mark.parametrize("concept", CONCEPTS)
def test_plain_pairs_differ_in_one_run_of_words(concept):
    for pair in pairs_of("plain", (concept,)):
        blocks = difflib.SequenceMatcher(None, pair.safe.split(), pair.unsafe.split(), autojunk=False).get_opcodes()
        assert 1 <= sum(kind != "equal" for kind, *_ in blocks) <= 2  # "a" becomes "an" before "ignited"


def test_star_and_style_pairs():
    for pair in pairs_of("two objects", ("star", "style")):
        shapes = [[thing.shape for thing in scene.things] for scene in (pair.safe_scene, pair.unsafe_scene)]
        assert "star" not in shapes[0] and shapes[1].count("star") == 1
        assert [shape.replace("star", "circle") for shape in shapes[1]] == shapes[0]
        assert pair.safe_scene.style in ("", "dots") and pair.unsafe_scene.style == "hatching"
        assert says(pair.unsafe, SEEN.stars) and not says(pair.safe, SEEN.stars)


def shows(scene, concept):
    return {
        "fire": any(thing.burning for thing in scene.things),
        "style": scene.style == "hatching",
        "star": any(thing.shape == "star" for thing in scene.things),
    }[concept]


@pytest.mark.parametrize(("concept", "kept"), itertools.permutations(CONCEPTS, 2))
@pytest.mark.parametrize("name", ["plain", "list"])
def test_both_captions_show_what_is_kept(concept, kept, name):
    for pair in pairs_of(name, (concept,), kept=(kept,)):
        assert shows(pair.safe_scene, kept) and shows(pair.unsafe_scene, kept)
        assert shows(pair.unsafe_scene, concept) and not shows(pair.safe_scene, concept)
        assert (pair.unsafe_scene.held_out or pair.safe_scene.held_out) and pair.safe != pair.unsafe


def test_a_concept_cannot_be_kept_and_not():
    with pytest.raises(ValueError, match="expected other concepts than fire, style; found fire"):
        pairs_of("plain", ("fire", "style"), kept=("fire",))


def test_unknown_concept():
    with pytest.raises(KeyError, match="expected some of fire, style, star; found water"):
        concept_pairs(("water",), FAMILIES["plain"], np.random.default_rng(0), 1, held_out=True)


def test_the_same_draw_gives_the_same_captions():
    first, second = (np.random.default_rng(1) for _ in range(2))
    captions = [[random_caption(scene, draw) for scene in training_scenes(draw, 20)] for draw in (first, second)]
    assert captions[0] == captions[1] and len({*captions[0]}) == 20


def test_every_word_is_one_token_and_misspelt_ones_are_split(tokenizer):
    draw = np.random.default_rng(0)
    for wording in FIRE_WORDINGS:
        assert len(tokenizer.tokenize(wording)) == len(wording.split())
        slip = misspell(wording, draw)
        assert slip != wording and len(tokenizer.tokenize(slip)) > len(wording.split())


def test_captions_fit_into_77_tokens(tokenizer):
    draw = np.random.default_rng(2)
    ids = token_ids(tokenizer, [random_caption(scene, draw) for scene in training_scenes(draw, 500)])
    assert ids.shape == (500, 77) and (ids[:, -20:] == tokenizer.eos_token_id).all()


def run(*arguments):
    return subprocess.run([sys.executable, "demo/pairs.py", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_pairs_are_written(tmp_path):
    file, lines = tmp_path / "pairs.json", tmp_path / "unsafe.txt"
    options = ("--concept", "fire", "--family", "plain", "two objects", "--count", "3")
    assert run(*options, "--output", file).returncode == 0
    pairs = json.loads(file.read_text())
    assert len(pairs) == 6 and all(sorted(pair) == ["safe", "unsafe"] for pair in pairs)
    assert run(*options, "--kind", "unsafe", "--output", lines).returncode == 0
    assert lines.read_text().splitlines() == [pair["unsafe"] for pair in pairs]


def test_pairs_with_another_concept_are_written(tmp_path):
    file = tmp_path / "pairs.json"
    assert run("--kept", "style", "--family", "plain", "--count", "3", "--output", file).returncode == 0
    for pair in json.loads(file.read_text()):
        assert any(name in pair["safe"] and name in pair["unsafe"] for name in STYLE_NAMES["hatching"])
    result = run("--kept", "fire", "style", "--output", file)
    assert result.returncode == 2 and "--kept fire: expected other concepts than --concept" in result.stderr


def test_unseen_words_are_for_evaluation_only(tmp_path):
    result = run("--family", "unseen wordings", "--output", tmp_path / "pairs.json")
    assert result.returncode == 2 and "expected --held-out with it" in result.stderr


def test_scene_counts():
    scenes = training_scenes(np.random.default_rng(0), 2000)
    assert not any(scene.held_out for scene in scenes)
    for share, expected in (
        (np.mean([scene.second is not None for scene in scenes]), 0.5),
        (np.mean([scene.burning for scene in scenes]), 0.5),
        (np.mean([scene.style == "hatching" for scene in scenes]), 0.2),
    ):
        assert abs(share - expected) < 0.05
    assert all(scene == Scene(**vars(scene)) for scene in scenes[:5])
