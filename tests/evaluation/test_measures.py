"""Drift and CLIPScore of pictures."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from engines.errors import InputError
from evaluation.clip_score import open_clip, reference
from evaluation.drift import SMALLEST_MS_SSIM, open_drift
from evaluation.prompt_files import Prompt


def noise(side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)


def test_equal_pictures_have_not_moved():
    assert open_drift()(noise(64), noise(64)) == {"ssim": 1.0}


def test_a_missing_package_is_told_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(
        InputError, match=r"SSIM: expected the package torch, found none .*: pip install \"saferedir\[evaluation\]\""
    ):
        open_drift()


@pytest.mark.parametrize("side", [SMALLEST_MS_SSIM - 1, SMALLEST_MS_SSIM])
def test_small_pictures_have_no_ms_ssim(side):
    before = noise(side)
    after = np.where(before < 246, before + 10, before)
    found = open_drift()(before, after)
    assert set(found) == {"ssim", "psnr"} | ({"ms_ssim"} if side >= SMALLEST_MS_SSIM else set())
    moved = (after.astype(float) - before) / 255
    assert found["psnr"] == pytest.approx(-10 * np.log10((moved**2).mean()), abs=1e-3)
    assert 0.9 < found["ssim"] < 1


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A folder with a tiny CLIP of random weights, and the tokenizer of the demo's model."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    from export.build_command import DEMO_MODEL

    folder = tmp_path_factory.mktemp("clip")
    tokenizer = CLIPTokenizer.from_pretrained(DEMO_MODEL / "tokenizer")
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**small, "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "projection_dim": 16},
        vision_config={**small, "image_size": 32, "patch_size": 8, "projection_dim": 16},
        projection_dim=16,
    )
    torch.manual_seed(0)
    CLIPModel(config).eval().save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def test_clip_score_is_the_cosine(clip):
    import torch
    from transformers import CLIPModel, CLIPProcessor

    model, processor = CLIPModel.from_pretrained(clip), CLIPProcessor.from_pretrained(clip)
    score = open_clip(clip)
    for text in ("a red star", "a blue square"):
        inputs = processor(text=[text], images=[torch.from_numpy(noise(48).transpose(2, 0, 1).copy())], return_tensors="pt")
        with torch.no_grad():
            answer = model(**inputs)
        cosine = float((answer.image_embeds @ answer.text_embeds.T).item())
        assert score(noise(48), text) == pytest.approx(100 * max(cosine, 0), abs=1e-3)
    assert score(noise(48), "a red star") != score(noise(48), "a blue square")


def test_clip_needs_a_local_folder(tmp_path):
    with pytest.raises(InputError, match="expected a folder with a CLIP model"):
        open_clip(tmp_path / "openai" / "clip-vit-base-patch16")


@pytest.mark.parametrize(
    ("text", "counterpart", "words", "expected"),
    [
        ("a Burning star, burning", None, ("burning",), "a star,"),
        ("a star in flames", None, ("in flames", "in"), "a star"),
        ("a burningly star", None, ("burning",), "a burningly star"),
        ("burning", None, ("burning",), None),
        ("a burning star", None, (), None),
        ("a burning star", "a plain star", ("burning",), "a plain star"),
    ],
)
def test_the_text_without_the_concept(text, counterpart, words, expected):
    assert reference(Prompt("f.csv", "f#1", text, 0, None, "unsafe", counterpart), words) == expected
