"""`--vae`: another decoder in the place of the model's own, and pictures equal to diffusers' with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from diffusers import AutoencoderKL, AutoencoderTiny

from engines.errors import InputError
from engines.manifest import Manifest
from engines.store.digests import file_digest
from export.build_command import DEMO_MODEL
from export.sources.load import load_component
from export.sources.locate import find_model
from runtime import GuardedPipeline
from tests.export.test_build import build_with, built_anew
from tests.runtime.test_pipeline import FIRE, PLAIN, levels, scheduler_of

WEIGHTS = "diffusion_pytorch_model.safetensors"
# Where a name of the original Stable Diffusion release differs from diffusers': [diffusers', original].
ORIGINAL = [
    ("conv_norm_out", "norm_out"),
    ("conv_shortcut", "nin_shortcut"),
    ("mid_block.resnets.0", "mid.block_1"),
    ("mid_block.resnets.1", "mid.block_2"),
    *((f"down_blocks.{level}.resnets", f"down.{level}.block") for level in range(3)),
    *((f"down_blocks.{level}.downsamplers.0", f"down.{level}.downsample") for level in range(3)),
    *((f"up_blocks.{level}.resnets", f"up.{2 - level}.block") for level in range(3)),
    *((f"up_blocks.{level}.upsamplers.0", f"up.{2 - level}.upsample") for level in range(3)),
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """An untrained AutoencoderTiny of the demo's scale."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("decoders") / "tiny"
    AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
        scaling_factor=0.8,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    """The demo's autoencoder with other weights and another scale."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("decoders") / "other"
    vae = AutoencoderKL.from_pretrained(DEMO_MODEL / "vae")
    vae.decoder.conv_out.bias.data += 0.3 * torch.randn(3)
    vae.register_to_config(scaling_factor=0.7)
    vae.save_pretrained(folder)
    return folder


def original_names(tensors: dict[str, torch.Tensor], prefix: str = "") -> dict[str, torch.Tensor]:
    renamed = {}
    for name, tensor in tensors.items():
        for ours, theirs in ORIGINAL:
            name = name.replace(ours, theirs)
        renamed[prefix + name] = tensor
    return renamed


def demo_vae() -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(DEMO_MODEL / "vae" / WEIGHTS)


def vae_tensors(file: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    said: list[str] = []
    return dict(load_component(find_model(str(DEMO_MODEL), vae=str(file)), "vae", said.append).state_dict()), said


@pytest.mark.parametrize("kind", ["other", "tiny"])
def test_pictures_equal_diffusers(demo_engines, tmp_path, diffusers_pipeline, monkeypatch, request, kind):
    decoder, folder = request.getfixturevalue(kind), shutil.copytree(demo_engines, tmp_path / "demo")
    lines = build_with("--engine-dir", str(folder), "--vae", str(decoder))
    assert built_anew(lines) == ["vae_decoder"]
    manifest = Manifest.read(folder)[0]
    assert manifest.sources[f"vae/{WEIGHTS}"].sha256 == file_digest(decoder / WEIGHTS)
    assert "nothing changed" in build_with("--engine-dir", str(folder), "--vae", str(decoder))[-1]

    monkeypatch.setattr(diffusers_pipeline, "scheduler", scheduler_of(diffusers_pipeline, "ddim"))
    monkeypatch.setattr(diffusers_pipeline, "vae", {"other": AutoencoderKL, "tiny": AutoencoderTiny}[kind].from_pretrained(decoder))
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    expected = diffusers_pipeline([FIRE, PLAIN], num_inference_steps=8, generator=generators).images
    with GuardedPipeline(folder) as opened:
        options = {"seed": 3, "scheduler": "ddim", "num_inference_steps": 8}
        found = opened([FIRE, PLAIN], unguarded=True, **options)
        assert max(map(levels, found.images, expected)) <= 1
        guarded = opened([FIRE, PLAIN], **options)
        assert [report.verdict for report in guarded.reports] == ["redirected", "safe"]
        assert levels(guarded.images[1], found.images[1]) == 0 and levels(guarded.images[0], found.images[0]) > 1


def test_the_models_own_decoder_in_another_place_changes_nothing(demo_engines, tmp_path):
    folder = shutil.copytree(demo_engines, tmp_path / "demo")
    assert "nothing changed" in build_with("--engine-dir", str(folder), "--vae", str(DEMO_MODEL / "vae"))[-1]
    file = shutil.copy(DEMO_MODEL / "vae" / WEIGHTS, tmp_path / WEIGHTS)
    assert "nothing changed" in build_with("--engine-dir", str(folder), "--vae", str(file))[-1]


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_files_with_the_original_names(tmp_path, prefix):
    """A file alone has the model's config; its attention, which the demo lacks, is a convolution there."""
    safetensors.torch.save_file(original_names(demo_vae(), prefix), tmp_path / "vae-ft-mse.safetensors")
    found, said = vae_tensors(tmp_path / "vae-ft-mse.safetensors")
    expected = demo_vae()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name].float()) for name in found)
    assert said == []


def test_a_file_of_a_training(tmp_path):
    """Its state dict stands beside other things, and has the loss's tensors and the average's beside the network's."""
    trained = original_names(demo_vae()) | {"loss.logvar": torch.zeros(1), "model_ema.decay": torch.ones(1)}
    torch.save({"epoch": 3, "state_dict": trained}, tmp_path / "vae-ft-mse.ckpt")
    found, _ = vae_tensors(tmp_path / "vae-ft-mse.ckpt")
    assert all(torch.equal(tensor, demo_vae()[name].float()) for name, tensor in found.items())


def test_a_model_of_the_hub(tmp_path, tiny, monkeypatch):
    """What the hub's library has in its cache is read; what it has not is asked for, and here there is no network."""
    asked = []

    def download(name, allow_patterns):
        asked.append((name, "config.json" in allow_patterns, "diffusion_pytorch_model.safetensors" in allow_patterns))
        if name != "owner/tiny":
            raise OSError("no network")
        return tiny

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    source = find_model(str(DEMO_MODEL), vae="owner/tiny")
    assert source.files("vae") == [tiny / "config.json", tiny / WEIGHTS] and asked == [("owner/tiny", True, True)]
    with pytest.raises(InputError, match="vae 'owner/other': no such folder or file, .* no network. Pass .* folder to --vae"):
        find_model(str(DEMO_MODEL), vae="owner/other")


def test_attention_with_the_original_names(tmp_path):
    """As Stable Diffusion's own autoencoder has it."""
    torch.manual_seed(2)
    model = shutil.copytree(DEMO_MODEL, tmp_path / "model")
    config = json.loads((model / "vae" / "config.json").read_text()) | {"mid_block_add_attention": True}
    vae = AutoencoderKL.from_config(config)
    vae.save_pretrained(model / "vae")
    renamed = original_names(vae.state_dict())
    for name in list(renamed):
        if ".attentions.0." in name:
            parts = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
            part = next(part for part in parts if part in name)
            tensor = renamed.pop(name)
            wide = tensor[..., None, None] if tensor.ndim == 2 else tensor
            renamed[name.replace("mid_block.attentions.0", "mid.attn_1").replace(part, parts[part])] = wide.contiguous()
    safetensors.torch.save_file(renamed, tmp_path / "vae.safetensors")
    found = load_component(find_model(str(model), vae=str(tmp_path / "vae.safetensors")), "vae", lambda said: None).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in vae.state_dict().items())


def test_a_file_of_a_whole_model(tmp_path):
    """Its autoencoder is taken, and no other network of it."""
    whole = original_names(demo_vae(), "first_stage_model.") | {"model.diffusion_model.out.2.bias": torch.zeros(4)}
    safetensors.torch.save_file(whole | {"cond_stage_model.x": torch.ones(1)}, tmp_path / "model.safetensors")
    found, _ = vae_tensors(tmp_path / "model.safetensors")
    assert found.keys() == demo_vae().keys() and all(torch.equal(found[name], demo_vae()[name].float()) for name in found)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda tensors: tensors | {"extra.logvar": torch.zeros(1)},
            "found 1 that have no counterpart in diffusers: .*extra.logvar",
        ),
        (
            lambda tensors: {name: tensor for name, tensor in tensors.items() if "mid.block_1.conv1" not in name},
            "missing",
        ),
        (lambda tensors: {"1.weight": torch.zeros(1), "3.conv.0.weight": torch.zeros(1)}, "as TAESD's own release has them"),
        (lambda tensors: {f"other.{name}": tensor for name, tensor in tensors.items()}, "no name fits"),
        (lambda tensors: {"model.diffusion_model.out.2.bias": torch.zeros(4)}, "136 of 136 tensors missing"),
    ],
)
def test_loading_is_strict(tmp_path, change, message):
    safetensors.torch.save_file(change(original_names(demo_vae())), tmp_path / "vae.safetensors")
    with pytest.raises(InputError, match=message):
        vae_tensors(tmp_path / "vae.safetensors")


@pytest.mark.parametrize(
    "name, config, message",
    [
        ("nowhere", None, "vae '.*nowhere': no such folder or file, and not a hub id"),
        ("vae.gguf", None, "--vae: expected a folder .* or a file ending in one of .safetensors, .ckpt, .* found .*vae.gguf"),
        (".", None, "config.json: expected in a diffusers model folder"),
        (".", {"_class_name": "AsymmetricAutoencoderKL"}, "_class_name: expected AutoencoderKL or AutoencoderTiny"),
        (".", {"_class_name": "AutoencoderTiny", "upsampling_scaling_factor": 4}, "upsampling_scaling_factor: expected 2"),
        (".", {"_class_name": "AutoencoderTiny", "shift_factor": 0.1}, "shift_factor: expected 0.0"),
        (".", {"_class_name": "AutoencoderTiny", "latent_channels": 16}, "latent_channels: expected 4"),
    ],
)
def test_what_cannot_take_its_place(tmp_path, name, config, message):
    (tmp_path / "vae.gguf").write_bytes(b"")
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=message):
        find_model(str(DEMO_MODEL), vae=str(tmp_path / name)).weights("vae")


def test_engines_do_not_go_into_it(tmp_path, tiny):
    with pytest.raises(InputError, match="--engine-dir"):
        build_with("--vae", str(tiny), "--engine-dir", str(tiny / "engines"))


def test_the_size_of_pictures_follows_the_decoder(tmp_path):
    AutoencoderTiny().save_pretrained(tmp_path / "taesd")
    config = json.loads((tmp_path / "taesd" / "config.json").read_text())
    (tmp_path / "taesd" / "config.json").write_text(json.dumps({key: config[key] for key in config if "block_out" not in key}))
    source = find_model(str(DEMO_MODEL), vae=str(tmp_path / "taesd"))
    assert (source.geometry.scale_factor, source.geometry.default_height) == (8, 128)
    latent = torch.randn(1, 4, 4, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = load_component(source, "vae").decode(latent).sample
        expected = AutoencoderTiny.from_pretrained(tmp_path / "taesd").decode(latent).sample
    assert found.shape[2:] == (32, 48)
    np.testing.assert_array_equal(found, expected)
