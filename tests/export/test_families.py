"""Stable Diffusion 1.x and 2.x whole: miniatures of their configs, and of published models', give diffusers' pictures.

`-m full` builds both families in full size from a single file of random weights: about 10 GB of disk and of memory.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import diffusers
import numpy as np
import pytest
import safetensors.torch
import torch

from engines.manifest import Manifest
from export.build import build
from export.build_command import options
from export.sources import single_file
from runtime import GuardedPipeline
from saferedir.cli import parse
from tests.export import miniature

SIZE = 128  # pixels. At 64 the innermost level is one pixel, and the normalisation of two values there is a sign: rounding decides
PROMPTS = ["a burning blue square", "a small red star on a grey background"]


def test_predicting_v(tmp_path):
    """2.x as it comes with us, its text encoder as deep as in full size."""
    found = miniature.configs("sd2", text_encoder={"num_hidden_layers": 23})
    miniature.save_model(tmp_path / "model", found, miniature.PADS["sd2"])
    pictures_are_equal(tmp_path / "model", tmp_path / "engines", SIZE, steps=4)


@pytest.mark.parametrize("name", miniature.PUBLISHED)
def test_published_configs(tmp_path, name):
    """Their fields as they are, widths and depths in miniature."""
    family, found = miniature.published(name)
    miniature.save_model(tmp_path / "model", found, miniature.PADS[family])
    pictures_are_equal(tmp_path / "model", tmp_path / "engines", SIZE, steps=4)
    # Older files say 32 for a UNet of 64; where we do not know the UNet's, the miniature has 8.
    assert Manifest.read(tmp_path / "engines")[0].geometry.default_height == (512 if "unet" in miniature.PUBLISHED[name] else 64)


@pytest.mark.full
@pytest.mark.parametrize("family", miniature.PADS)
def test_full_size(tmp_path, family):
    folder = single_file.CONFIGS / family
    found = {path.name: json.loads(next(path.iterdir()).read_text()) for path in folder.iterdir()}
    tensors = miniature.original_tensors(miniature.modules(found))
    file = tmp_path / "model.safetensors"
    safetensors.torch.save_file({name: tensor.half().contiguous() for name, tensor in tensors.items()}, file)
    del tensors
    miniature.save_configs(tmp_path, found, miniature.PADS[family])
    pictures_are_equal(file, tmp_path / "engines", 2 * SIZE, steps=2)


def pictures_are_equal(model: Path, engines: Path, size: int, steps: int) -> None:
    """Build `model` and compare its pictures with those of diffusers, whose scheduler is the model's own."""
    build(options(parse(["build", "--model", str(model), "--unguarded", "--engine-dir", str(engines)])))
    call = {"num_inference_steps": steps, "guidance_scale": 5.0, "height": size, "width": size}
    with GuardedPipeline(engines, unguarded=True) as pipeline:
        found = [np.asarray(picture, np.float32) for picture in pipeline(PROMPTS, seed=[3, 4], **call).images]
    with warnings.catch_warnings(action="ignore"):
        theirs = _theirs(model, Manifest.read(engines)[0].scheduler)
    theirs.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    expected = theirs(PROMPTS, generator=generators, output_type="np", **call).images
    for ours, picture in zip(found, np.round(expected * 255), strict=True):
        assert np.abs(ours - picture).max() <= 1 and picture.std() > 1


def _theirs(model: Path, scheduler: dict) -> diffusers.StableDiffusionPipeline:
    """Of a folder, as diffusers reads it; of a single file with what we found out, for it has no scheduler."""
    if model.is_dir():
        absent = {"safety_checker": None, "feature_extractor": None}
        return diffusers.StableDiffusionPipeline.from_pretrained(model, torch_dtype=torch.float32, **absent)
    read = diffusers.StableDiffusionPipeline.from_single_file
    pipeline = read(str(model), config=str(model.parent), torch_dtype=torch.float32, safety_checker=None)
    pipeline.scheduler = getattr(diffusers, scheduler["_class_name"]).from_config(scheduler)
    return pipeline
