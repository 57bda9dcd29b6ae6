"""Guidance as an input of the UNet (`time_cond_proj_dim`): against diffusers, and guarded."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from engines.errors import InputError
from engines.manifest import Manifest
from export.build_command import DEMO_MODEL, DEMO_REDIRECTOR
from runtime import GuardedPipeline
from runtime.guidance import guidance_embedding
from tests.export.test_build import build_with, built_anew
from tests.runtime.test_pipeline import FIRE, PLAIN, levels, scheduler_of

WIDTH, STEPS = 33, 8


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The demo with a UNet that listens to its guidance scale, untrained as it is."""
    folder = shutil.copytree(DEMO_MODEL, tmp_path_factory.mktemp("guided") / "model")
    trained = UNet2DConditionModel.from_pretrained(DEMO_MODEL / "unet", torch_dtype=torch.float32)
    guided = UNet2DConditionModel.from_config({**trained.config, "time_cond_proj_dim": WIDTH})
    torch.manual_seed(0)
    projection = torch.randn_like(guided.time_embedding.cond_proj.weight) / 10
    guided.load_state_dict({**trained.state_dict(), "time_embedding.cond_proj.weight": projection})
    guided.save_pretrained(folder / "unet")
    return folder


@pytest.fixture(scope="module")
def engines(demo_engines, model, tmp_path_factory):
    folder = shutil.copytree(demo_engines, tmp_path_factory.mktemp("guided") / "engines")
    lines = build_with(
        "--model", str(model), "--redirector", str(DEMO_REDIRECTOR), "--concept", "fire", "--engine-dir", str(folder)
    )
    assert built_anew(lines) == ["unet"]
    return folder


@pytest.fixture(scope="module")
def guided(engines):
    with GuardedPipeline(engines) as opened:
        yield opened


@pytest.fixture(scope="module")
def theirs(model):
    loaded = StableDiffusionPipeline.from_pretrained(model, torch_dtype=torch.float32, safety_checker=None)
    loaded.set_progress_bar_config(disable=True)
    loaded.scheduler = scheduler_of(loaded, "ddim")
    return loaded


@pytest.mark.parametrize("width", [4, 5, 64, 256, 513])
def test_embedding_equals_diffusers(theirs, width):
    scales = [0.0, 1.0, 1.5, 7.5, 8.123456789, 100.0, -3.0]
    expected = theirs.get_guidance_scale_embedding(torch.tensor(scales) - 1, embedding_dim=width)
    found = guidance_embedding(scales, width)
    assert found.dtype == np.float32 and found.shape == (len(scales), width)
    np.testing.assert_allclose(found, expected, atol=2e-2)  # angles reach 99,000, of which float32 keeps 0.008
    np.testing.assert_allclose(found[:3], expected[:3], atol=1e-4)


def test_pictures_equal_diffusers(guided, theirs):
    """One scale for each image, without a row of its own for what is not asked for."""
    scales, found = [1.0, 3.0, 7.5], []
    for scale in scales:
        generator = torch.Generator().manual_seed(3)
        expected = theirs(PLAIN, num_inference_steps=STEPS, guidance_scale=scale, generator=generator).images[0]
        alone = guided(PLAIN, seed=3, num_inference_steps=STEPS, guidance_scale=scale, scheduler="ddim", unguarded=True)
        assert levels(alone.images[0], expected) <= 1
        assert alone.reports[0].guidance == "embedded" and alone.reports[0].guidance_scale == scale
        found.append(expected)
    assert levels(found[0], found[1]) > 1 and levels(found[1], found[2]) > 1
    together = guided([PLAIN] * 3, seed=[3] * 3, num_inference_steps=STEPS, guidance_scale=scales, scheduler="ddim", unguarded=True)
    assert max(map(levels, together.images, found)) <= 1


def test_it_is_guarded(guided):
    options = {"seed": [7, 8], "num_inference_steps": STEPS, "scheduler": "ddim"}
    found, unguarded = guided([FIRE, PLAIN], **options), guided([FIRE, PLAIN], unguarded=True, **options)
    assert [report.verdict for report in found.reports] == ["redirected", "safe"]
    assert levels(found.images[1], unguarded.images[1]) == 0 and levels(found.images[0], unguarded.images[0]) > 1


def test_the_unet_runs_once_for_each_image(engines):
    rows = []

    class Watched:
        def __init__(self, engine):
            self.spec, self._engine = engine.spec, engine

        def bind(self, **tensors):
            rows.append((tensors["sample"].shape[0], tensors["timestep_cond"].shape))
            return self._engine.bind(**tensors)

    with GuardedPipeline(engines, wrap=lambda engine: Watched(engine) if engine.spec.name == "unet" else engine) as opened:
        opened([FIRE, PLAIN], seed=0, num_inference_steps=2, guidance_scale=7.5)
    assert set(rows) == {(2, (2, WIDTH))}


def test_a_negative_prompt_is_an_error(guided):
    with pytest.raises(InputError, match="negative_prompt: expected none, .* found 'red'"):
        guided([FIRE, PLAIN], negative_prompt=["", "red"], num_inference_steps=1)


def test_reports_say_what_guidance_was(pipeline):
    reports = pipeline([PLAIN] * 3, seed=0, num_inference_steps=1, guidance_scale=[7.5, 1.0, 0.0]).reports
    assert [report.guidance for report in reports] == ["classifier-free", "none", "none"]


def test_the_manifest_has_its_width(engines):
    assert Manifest.read(engines)[0].geometry.time_cond_proj_dim == WIDTH


def test_optimised_engines_take_it_too(engines, tmp_path, guided):
    from engines.optimize import optimize
    from engines.store.engine_store import EngineStore

    optimize(EngineStore(engines), tmp_path / "optimised", "")
    with GuardedPipeline(tmp_path / "optimised") as opened:
        options = {"seed": 3, "num_inference_steps": 2, "guidance_scale": 4.0}
        assert levels(opened(FIRE, **options).images[0], guided(FIRE, **options).images[0]) <= 1
