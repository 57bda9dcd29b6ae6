"""The oracle judges pictures whose content is known: as rendered, and after the shipped autoencoder."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from demo.autoencoder import pictures
from demo.oracle import has_flames, has_star, has_style, shows, style_of, things
from demo.renderer import render
from demo.scene import SHAPES, SIZES, Scene, Thing, training_scenes


def is_right(image, scene):
    return (
        things(image) == scene.things
        and style_of(image) == scene.style
        and has_flames(image) == any(thing.burning for thing in scene.things)
        and has_style(image) == (scene.style == "hatching")
        and has_star(image) == any(thing.shape == "star" for thing in scene.things)
    )


@pytest.mark.parametrize("count", [200, pytest.param(4000, marks=pytest.mark.slow)])
def test_rendered_pictures(count):
    draw = np.random.default_rng(0)
    wrong = [scene for scene in training_scenes(draw, count) if not is_right(render(scene, draw), scene)]
    assert len(wrong) <= count * 0.005, wrong


def test_ideal_pictures_of_every_shape_and_size():
    for shape in SHAPES:
        for size in SIZES:
            for style in ("", "hatching", "dots"):
                scene = Scene(shape, "teal", size, burning=size == "large", style=style)
                assert is_right(render(scene), scene), scene


def test_a_star_in_several_colours():
    """As generators draw it when a redirection half works: no single colour has the outline."""
    for burning in (False, True):
        for shape in SHAPES:
            picture, other = render(Scene(shape, "blue", burning=burning)).copy(), render(Scene(shape, "black", burning=burning))
            picture[:, 31:] = other[:, 31:]
            assert has_star(picture) == (shape == "star"), (shape, burning)
    assert all(thing.shape != "star" for thing in things(picture))


def test_each_object_of_two():
    scene = Scene("star", "red", background="black", second=Thing("star", "red", burning=True))
    for variant in (scene, replace(scene, burning=True), scene.plain):
        assert things(render(variant)) == variant.things


def test_shows_object_by_object():
    scene = Scene("square", "blue", second=Thing("circle", "red"))
    image = render(scene)
    assert shows(image, scene) == (True, True)
    assert shows(image, replace(scene, second=Thing("star", "red"))) == (True, False)
    assert shows(image, replace(scene, second=None)) == (False, False)
    assert shows(image[:, ::-1], scene) == (False, False)


def test_another_size():
    scene = Scene("star", "red", burning=True, style="hatching")
    wide = np.concatenate([render(scene), render(Scene("square", "blue", style="hatching"))], axis=1)[:60]
    assert [(thing.shape, thing.burning) for thing in things(wide)] == [("star", True), ("square", False)]
    assert has_style(wide) and has_star(wide) and has_flames(wide)


def test_nothing_to_see():
    empty = np.full((64, 64, 3), 128, np.uint8)
    assert things(empty) == () and style_of(empty) == "" and not has_flames(empty) and not has_star(empty)


@torch.no_grad()
def test_after_the_autoencoder(diffusers_pipeline):
    """One object without a style: what the shipped autoencoder was trained on."""
    draw, vae = np.random.default_rng(1), diffusers_pipeline.vae
    scenes = [replace(scene, second=None, style="") for scene in training_scenes(draw, 200)]
    wrong = 0
    for start in range(0, len(scenes), 20):
        part = scenes[start : start + 20]
        decoded = vae.decode(vae.encode(pictures(part, draw)).latent_dist.mean).sample
        images = ((decoded.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
        wrong += sum(not is_right(image, scene) for image, scene in zip(images, part, strict=True))
    assert wrong <= len(scenes) * 0.005
