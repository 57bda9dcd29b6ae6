"""The oracle judges pictures whose content is known; prompts differ in the fire word only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from demo.oracle import flame_pixels, has_flames, shows
from demo.redirector import correspond
from demo.renderer import render
from demo.world import FIRE_WORDS, SCENES, Scene, caption, prompt_pairs


def test_oracle_on_rendered_pictures():
    draw = np.random.default_rng(0)
    for scene in (SCENES[index] for index in draw.choice(len(SCENES), 150)):
        plain, burning = render(scene.plain, draw), render(replace(scene, burning=True), draw)
        assert flame_pixels(plain) <= 2 and not has_flames(plain)
        assert flame_pixels(burning) > 60
        assert shows(plain, scene) == shows(burning, scene) == (True, True)


def test_pairs_differ_in_the_fire_word_only():
    for scene, safe, unsafe in prompt_pairs(np.random.default_rng(1), 200, held_out=True):
        word = next(word for word in FIRE_WORDS if word in unsafe)
        assert scene.held_out and scene.burning
        assert " ".join(safe.replace("plain ", "").split()) == " ".join(unsafe.replace(word, "").split())


def test_held_out_scenes_are_a_tenth():
    assert 0.08 < np.mean([scene.held_out for scene in SCENES]) < 0.12


def test_a_word_must_fit_its_scene():
    with pytest.raises(ValueError, match="does not describe"):
        caption(Scene("star", "red"), "burning")


def test_corresponding_tokens():
    assert correspond([0, 5, 6, 9, 9], [0, 4, 5, 6, 9]) == ([0, 1, 1, 2, 3], [False, True, False, False, False])
