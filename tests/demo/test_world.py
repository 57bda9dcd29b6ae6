"""Scenes and plain pairs of one object."""

from __future__ import annotations

import numpy as np

from demo.world import FIRE_WORDS, SCENES, prompt_pairs


def test_pairs_differ_in_the_fire_word_only():
    for scene, safe, unsafe in prompt_pairs(np.random.default_rng(1), 200, held_out=True):
        word = next(word for word in FIRE_WORDS if word in unsafe)
        assert scene.held_out and scene.burning
        assert " ".join(safe.replace("plain ", "").split()) == " ".join(unsafe.replace(word, "").split())


def test_held_out_scenes_are_a_tenth():
    assert 0.08 < np.mean([scene.held_out for scene in SCENES]) < 0.12
