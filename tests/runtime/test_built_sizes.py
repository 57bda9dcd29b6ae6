"""Engines that were built for sizes: they take no others, draw the same pictures, and compile when they are loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from engines.errors import InputError
from engines.manifest import Manifest
from engines.networks import NETWORKS
from engines.sizes import Sizes
from export.build import KEPT
from runtime import GuardedPipeline
from saferedir.cli import main
from tests.conftest import opened
from tests.runtime.test_pipeline import FIRE, PLAIN, STEPS

ONE = ("--height", "64", "--width", "48", "--batch-size", "1")


def rebuilt(demo_engines: Path, folder: Path, *arguments: str) -> Path:
    """A copy of the demo's engines, built again with these arguments."""
    shutil.copytree(demo_engines, folder)
    assert main(["build", "--engine-dir", str(folder), *arguments]) == 0
    return folder


def with_backend(folder: Path, backend: str) -> Path:
    """The same files under another backend's manifest."""
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "backend": backend}))
    return folder


@pytest.fixture
def one(demo_engines, tmp_path) -> Path:
    return rebuilt(demo_engines, tmp_path / "one", *ONE)


@pytest.fixture
def compiled(monkeypatch) -> list[int]:
    """The rows of the first input of each network that OpenVINO has compiled."""
    opened("openvino", "float32")
    import openvino

    rows: list[int] = []

    class Counting:
        def __init__(self) -> None:
            self._core = openvino.Core()
            self.read_model, self.get_property = self._core.read_model, self._core.get_property

        def compile_model(self, model, *rest):
            rows.append(model.inputs[0].shape[0])
            return self._core.compile_model(model, *rest)

    core = Counting()
    monkeypatch.setattr("engines.backends.openvino_cpu._core", lambda: core)
    return rows


def equal(found, expected) -> bool:
    pairs = zip(found.images, expected.images, strict=True)
    return all((one is None) == (other is None) and (one is None or np.array_equal(one, other)) for one, other in pairs)


def test_a_build_for_sizes_keeps_the_networks(demo_engines, tmp_path, capsys):
    one = rebuilt(demo_engines, tmp_path / "one", *ONE)
    printed = capsys.readouterr().out
    assert "rebuilding because of geometry; sizes\n" in printed and printed.count(KEPT) == len(NETWORKS) + 1
    manifest, _ = Manifest.read(one)
    assert manifest.sizes == Sizes("1:1:1", "64:64:64", "48:48:48")
    assert (manifest.geometry.default_height, manifest.geometry.default_width) == (64, 48)
    assert main(["inspect", str(one)]) == 0
    assert "width                48:48:48\n" in capsys.readouterr().out
    sizes = ["--height", "64:64:64", "--width", "48", "--batch-size", "1"]
    assert main(["build", "--engine-dir", str(one), *sizes]) == 0 and "nothing changed" in capsys.readouterr().out
    assert main(["build", "--engine-dir", str(one)]) == 0 and Manifest.read(one)[0].sizes == Sizes()


def test_they_draw_the_same_pictures_and_refuse_other_sizes(one, pipeline):
    with GuardedPipeline(one) as fixed:
        for options in ({}, {"guidance_scale": 1.0}, {"scheduler": "pndm"}, {"unguarded": True}):
            options |= {"seed": 3, "num_inference_steps": STEPS, "on_still_unsafe": "deliver"}
            found, expected = fixed(FIRE, **options), pipeline(FIRE, height=64, width=48, **options)
            assert found.images[0].size == (48, 64) and equal(found, expected)
        with pytest.raises(InputError, match=r"^height: expected 64, for which .* were built, found 96; rebuild with: .* --height"):
            fixed(PLAIN, height=96)
        with pytest.raises(InputError, match=r"^batch_size: expected 1, for which .*, found 2; rebuild with: .* --batch-size"):
            fixed([PLAIN, FIRE])


def test_a_span_and_sizes_that_are_not_named(demo_engines, tmp_path):
    folder = rebuilt(demo_engines, tmp_path / "span", "--height", "32:48:64")
    assert Manifest.read(folder)[0].sizes.only is None
    with GuardedPipeline(folder) as spanning:
        images = spanning([PLAIN, FIRE], width=72, num_inference_steps=2).images
        assert [image.size for image in images] == [(72, 48)] * 2
        assert spanning(PLAIN, height=32, num_inference_steps=2).images[0].size == (64, 32)
        with pytest.raises(InputError, match="height: expected 32 to 64, .* found 72"):
            spanning(PLAIN, height=72)


def test_openvino_compiles_when_it_is_loaded(one, demo_engines, tmp_path, compiled):
    options = {"seed": 3, "num_inference_steps": STEPS}
    with GuardedPipeline(with_backend(one, "openvino")) as fixed:
        assert sorted(compiled) == [1, 1, 1, 1, 1, 2]  # every network once: the text encoder with two rows
        found = [fixed(FIRE, **options)]
        assert found[0].reports[0].verdict == "redirected" and found[0].reports[0].guards[0].responsible_tokens
        assert len(compiled) == 6
        found.append(fixed(FIRE, guidance_scale=1.0, **options))  # rows of their own
        assert len(compiled) > 6
    compiled.clear()
    with GuardedPipeline(with_backend(shutil.copytree(demo_engines, tmp_path / "free"), "openvino")) as anything:
        assert len(compiled) == 2  # the canaries' networks
        expected = [anything(FIRE, height=64, width=48, guidance_scale=scale, **options) for scale in (7.5, 1.0)]
        assert len(compiled) > 6
    assert all(map(equal, found, expected))


def test_a_batch_of_which_one_is_withheld(demo_engines, tmp_path, pipeline, compiled):
    """The decoder runs with the rows that it was built for."""
    folder = rebuilt(demo_engines, tmp_path / "two", "--height", "64", "--width", "64", "--batch-size", "2")
    options = {"seed": 3, "num_inference_steps": STEPS, "on_unsafe": "refuse"}
    with GuardedPipeline(with_backend(folder, "openvino")) as two:
        before = len(compiled)
        found = two([PLAIN, FIRE], **options)
        assert len(compiled) == before and [image is None for image in found.images] == [False, True]
        assert two([FIRE, PLAIN], **options).reports[0].verdict == "refused"
        with pytest.raises(InputError, match="batch_size: expected 2, "):
            two(PLAIN)
    alone = pipeline(PLAIN, **options)
    assert np.abs(np.asarray(found.images[0], int) - np.asarray(alone.images[0], int)).max() <= 1


def test_a_scheduler_that_cannot_be_used(one, compiled):
    """A call names another then; its sampler's own shapes are compiled in its first picture."""
    manifest = json.loads((one / "manifest.json").read_text())
    manifest["scheduler"] |= {"_class_name": "CMStochasticIterativeScheduler"}
    (one / "manifest.json").write_text(json.dumps({**manifest, "backend": "openvino"}))
    with GuardedPipeline(one) as fixed:
        assert len(compiled) == 6
        fixed(PLAIN, seed=3, num_inference_steps=STEPS, scheduler="ddim")
        assert len(compiled) == 7


def test_int8_takes_single_images(capsys):
    command = ["build", "--backend", "openvino", "--precision", "int8", "--batch-size"]
    assert main([*command, "2:2:4"]) == 2
    assert "batch-size: expected engines that take one image" in capsys.readouterr().err
    assert main([*command, "1:x"]) == 2
    assert "batch-size: expected MIN:OPT:MAX" in capsys.readouterr().err
