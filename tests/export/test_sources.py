"""Models as people have them: read exactly, or refused in one line that names what is wrong. No network is exported here."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import diffusers
import pytest
import safetensors.torch
import torch
import transformers

from engines.errors import InputError
from engines.records import SourceRecord
from engines.store import digests
from export.build_command import DEMO_MODEL
from export.sources.load import load_component
from export.sources.locate import find_model
from export.sources.tokenizer_files import load_tokenizer
from export.tokenizer import convert_tokenizer

UNET, VAE, TEXT = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors", "model.safetensors"


@pytest.fixture
def model(tmp_path):
    return shutil.copytree(DEMO_MODEL, tmp_path / "model")


def edit(path: Path, **changes: object) -> None:
    """Change keys of a JSON file; None deletes nothing, `...` does."""
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def change_weights(file: Path, change) -> None:
    """Save what `change` makes of a file's tensors."""
    safetensors.torch.save_file(change(safetensors.torch.load_file(file)), file, metadata={"format": "pt"})


def loaded(model: Path, component: str) -> tuple[dict[str, torch.Tensor], list[str]]:
    """A component's tensors, and what was said."""
    said: list[str] = []
    return dict(load_component(find_model(str(model)), component, said.append).state_dict()), said


def refusal(model: Path, component: str) -> str:
    with pytest.raises(InputError) as caught:
        loaded(model, component)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 1500
    return text


@pytest.mark.parametrize(
    "component, made",
    [
        ("unet", diffusers.UNet2DConditionModel),
        ("vae", diffusers.AutoencoderKL),
        ("text_encoder", transformers.CLIPTextModel),
    ],
)
def test_weights_are_those_that_the_libraries_load(component, made):
    ours, said = loaded(DEMO_MODEL, component)
    theirs = made.from_pretrained(DEMO_MODEL / component).state_dict()
    assert ours.keys() == theirs.keys() and not said
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    "component, file, rename, said",
    [
        ("unet", UNET, lambda name: f"module.{name}", "without the prefix 'module.'"),
        ("unet", UNET, lambda name: f"module._orig_mod.{name}", "without the prefix '_orig_mod.'"),
        ("text_encoder", TEXT, lambda name: f"_orig_mod.{name}", "without the prefix '_orig_mod.'"),
        ("text_encoder", TEXT, lambda name: name.removeprefix("text_model."), "with the prefix 'text_model.'"),
        ("text_encoder", TEXT, lambda name: "module." + name.removeprefix("text_model."), "with the prefix 'text_model.'"),
        ("vae", VAE, lambda name: name.replace(".to_q.", ".query.").replace(".to_out.0.", ".proj_attn."), None),
    ],
)
def test_known_prefixes_are_read_and_said(model, component, file, rename, said):
    change_weights(model / component / file, lambda tensors: {rename(name): tensor for name, tensor in tensors.items()})
    found, lines = loaded(model, component)
    expected, _ = loaded(DEMO_MODEL, component)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert said is None or said in lines[-1]


def test_old_position_ids_are_no_surplus(model):
    ids = {"text_model.embeddings.position_ids": torch.arange(77).reshape(1, 77)}
    change_weights(model / "text_encoder" / TEXT, lambda tensors: tensors | ids)
    assert loaded(model, "text_encoder")[0].keys() == loaded(DEMO_MODEL, "text_encoder")[0].keys()


def mixed(tensors):
    return {f"module.{name}" if number % 2 else name: tensor for number, (name, tensor) in enumerate(tensors.items())}


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: {n: v for n, v in t.items() if "resnets.1" not in n}, r"\d+ of \d+ tensors missing: .*incomplete"),
        (lambda t: t | {f"extra.{n}": torch.zeros(1) for n in range(9)}, r"9 of \d+ tensors surplus: .*extra.4; and 4 more;"),
        (lambda t: t | {"conv_in.bias": torch.zeros(7)}, r"misshaped: conv_in.bias \(expected \[64\], found \[7\]\)"),
        (lambda t: {f"other.{n}": v for n, v in t.items()}, "no name fits: the file is of another component"),
        (lambda t: {f"unet.lora_{n}.lora_A.weight": v for n, v in t.items()}, "LoRA weights, which are no model"),
        (lambda t: {f"model.diffusion_model.{n}": v for n, v in t.items()}, "whole model in a single file; pass it as --model"),
        (mixed, "missing.*surplus"),
        (lambda t: t | {"conv_in.bias": t["conv_in.bias"].to(torch.int32)}, "conv_in.bias: expected float16, .* found int32"),
        (lambda t: t | {"conv_in.bias": t["conv_in.bias"] * torch.nan}, "conv_in.bias: expected finite values"),
        (lambda t: t | {"conv_in.bias": t["conv_in.bias"].double() + 1e300}, "conv_in.bias: expected finite values"),
    ],
)  # fmt: skip
def test_other_tensors_are_refused(model, change, message):
    change_weights(model / "unet" / UNET, change)
    assert re.search(message, refusal(model, "unet"))


def test_shards_are_read(model):
    unet = diffusers.UNet2DConditionModel.from_pretrained(model / "unet")
    (model / "unet" / UNET).unlink()
    unet.save_pretrained(model / "unet", max_shard_size="1MB")
    files = find_model(str(model)).files("unet")
    assert len(files) > 3 and files[1].name == f"{UNET}.index.json"
    assert all(torch.equal(tensor, unet.state_dict()[name]) for name, tensor in loaded(model, "unet")[0].items())
    files[-1].unlink()
    with pytest.raises(InputError, match="expected a shard of the weights, found none"):
        find_model(str(model)).files("unet")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_half_and_double_weights_become_float32(model, dtype):
    change_weights(model / "vae" / VAE, lambda tensors: {name: tensor.to(dtype) for name, tensor in tensors.items()})
    assert {tensor.dtype for tensor in loaded(model, "vae")[0].values()} == {torch.float32}


@pytest.mark.parametrize(
    "file, changes, message",
    [
        (
            "model_index.json",
            {"vae": ["diffusers", "AsymmetricAutoencoderKL"]},
            "vae: expected AutoencoderKL or .* of diffusers",
        ),
        ("model_index.json", {"vae": ["my_code", "AutoencoderKL"]}, "found 'AutoencoderKL' of 'my_code'"),
        ("model_index.json", {"unet": [None, None]}, "unet: expected UNet2DConditionModel"),
        ("model_index.json", {"text_encoder_2": ["transformers", "X"]}, "expected no component text_encoder_2"),
        ("model_index.json", {"tokenizer": ["transformers", "XLMRobertaTokenizer"]}, "tokenizer: expected CLIPTokenizer"),
        ("vae/config.json", {"_class_name": "AutoencoderTiny"}, "_class_name: expected AutoencoderKL .* found 'AutoencoderTiny'"),
        ("text_encoder/config.json", {"model_type": "altclip"}, "model_type: expected clip_text_model"),
        ("tokenizer/tokenizer_config.json", {"tokenizer_class": "T5Tokenizer"}, "tokenizer_class: expected CLIPTokenizer"),
        ("vae/config.json", {"block_out_channels": ...}, "block_out_channels: expected a list of widths, found None"),
        ("vae/config.json", {"latents_mean": [0.1] * 4}, "latents_mean: expected None"),
        ("vae/config.json", {"scaling_factor": "1"}, "scaling_factor: expected a number above 0"),
        ("unet/config.json", {"num_class_embeds": 10}, "num_class_embeds: expected None"),
        ("unet/config.json", {"time_cond_proj_dim": 3}, "time_cond_proj_dim: expected at least 4, found 3"),
        ("unet/config.json", {"time_cond_proj_dim": "256"}, "time_cond_proj_dim: expected a whole number"),
        ("unet/config.json", {"encoder_hid_dim_type": "text_proj"}, "encoder_hid_dim_type: expected None"),
        ("unet/config.json", {"attention_type": "gated"}, "attention_type: expected 'default'"),
        ("unet/config.json", {"sample_size": "64"}, "sample_size: expected a whole number"),
        ("text_encoder/config.json", {"use_attention_mask": True}, "use_attention_mask: expected False"),
        ("text_encoder/config.json", {"hidden_size": None}, "hidden_size: expected a whole number"),
    ],
)
def test_configs_that_would_change_the_picture_are_refused(model, file, changes, message):
    edit(model / file, **changes)
    with pytest.raises(InputError, match=message):
        find_model(str(model))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"new_option": 0.5}, "found new_option; a newer diffusers may know"),
        ({"num_attention_heads": 4}, "cannot be read as UNet2DConditionModel's config"),
        ({"down_block_types": ["NoSuchBlock"] * 3}, "cannot be read as UNet2DConditionModel's config"),
    ],
)
def test_options_that_diffusers_cannot_use_are_refused(model, changes, message):
    edit(model / "unet/config.json", **changes)
    assert message in refusal(model, "unet")


def test_bookkeeping_of_the_training_is_ignored(model):
    edit(model / "unet/config.json", decay=0.9999, inv_gamma=1.0, min_decay=0.0, optimization_step=5, new_and_off=None)
    loaded(model, "unet")


@pytest.mark.parametrize("value", [[], 5, None, "text", [[]], {"a": 1}, True, -1, 1e300])
@pytest.mark.parametrize(
    "file, key",
    [
        ("model_index.json", "vae"),
        ("unet/config.json", "block_out_channels"),
        ("unet/config.json", "sample_size"),
        ("unet/config.json", "_diffusers_version"),
        ("vae/config.json", "scaling_factor"),
        ("vae/config.json", "_class_name"),
        ("text_encoder/config.json", "hidden_size"),
        ("scheduler/scheduler_config.json", "steps_offset"),
        ("scheduler/scheduler_config.json", "_use_default_values"),
    ],
)
def test_values_of_any_type_are_read_or_refused(model, file, key, value):
    edit(model / file, **{key: value})
    try:
        source = find_model(str(model))
        assert source.scheduler["steps_offset"] == 1
    except InputError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("file", ["unet/config.json", "model_index.json", "scheduler/scheduler_config.json", "unet/" + UNET])
@pytest.mark.parametrize(
    "content, message",
    [
        (
            "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n",
            "Git LFS pointer to it; fetch it with: git lfs pull",
        ),
        ("[1, 2]", "expected a JSON object|cannot be read as"),
        ("[" * 100_000, "not valid JSON|cannot be read as"),
        ("", "not valid JSON|cannot be read as"),
    ],
)
def test_files_that_are_something_else(model, file, content, message):
    (model / file).write_text(content)
    with pytest.raises(InputError, match=message):
        assert find_model(str(model)).scheduler
        loaded(model, "unet")


@pytest.mark.parametrize(
    "version, size, expected",
    [("0.6.0", 32, 64), ("0.8.1", 63, 64), ("0.9.0", 16, 16), (..., 32, 32), ("0.6.0", [16, 24], (16, 24))],
)
def test_sample_size_of_old_models(model, version, size, expected):
    edit(model / "unet/config.json", _diffusers_version=version, sample_size=size)
    geometry = find_model(str(model)).geometry
    height, width = expected if isinstance(expected, tuple) else (expected, expected)
    assert (geometry.default_height, geometry.default_width) == (4 * height, 4 * width)


def test_scheduler_is_read_as_the_pipeline_reads_it(model):
    index, file = model / "model_index.json", model / "scheduler/scheduler_config.json"
    edit(index, scheduler=["diffusers", "PNDMScheduler"])
    edit(file, steps_offset=..., clip_sample=True)
    ours = find_model(str(model)).scheduler
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(model, safety_checker=None).scheduler
    assert ours["_class_name"] == type(theirs).__name__ == "PNDMScheduler"
    assert ours["steps_offset"] == theirs.config.steps_offset == 1 and ours["clip_sample"] is False


@pytest.mark.parametrize("name, message", [("FILE", "cannot be read as .safetensors weights"), ("~/nowhere", "found no folder /")])
def test_names_that_are_no_folder(tmp_path, name, message):
    (tmp_path / "dreamy.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=message):
        find_model(name.replace("FILE", str(tmp_path / "dreamy.safetensors")))


def test_home_is_expanded(model, monkeypatch):
    monkeypatch.setenv("HOME", str(model.parent))
    assert find_model("~/model").folder == model


def tokenizer_of(model: Path, vocab_size: int = 915) -> transformers.CLIPTokenizer:
    return load_tokenizer(find_model(str(model)).files("tokenizer"), vocab_size)


def test_tokenizers_of_transformers_5(model):
    """One file, tokenizer.json, and lists in tokenizer_config.json where transformers 4 has mappings."""
    folder = model / "tokenizer"
    expected = convert_tokenizer(tokenizer_of(model)).to_str()
    fast = transformers.CLIPTokenizerFast.from_pretrained(folder)
    shutil.rmtree(folder)
    fast.save_pretrained(folder)
    for file in ("vocab.json", "merges.txt", "special_tokens_map.json"):
        (folder / file).unlink()
    edit(folder / "tokenizer_config.json", extra_special_tokens=[], added_tokens_decoder=..., backend="tokenizers")
    assert convert_tokenizer(tokenizer_of(model)).to_str() == expected


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("vocab.json", "version https://git-lfs.github.com/spec/v1\n", "vocab.json: .* Git LFS pointer"),
        ("vocab.json", "{", "cannot be read as a CLIP tokenizer"),
        ("tokenizer_config.json", '{"model_max_length": 512}', "model_max_length: expected 77, found 512"),
    ],
)
def test_tokenizers_that_cannot_be_used(model, file, content, message):
    (model / "tokenizer" / file).write_text(content)
    with pytest.raises(InputError, match=message):
        tokenizer_of(model)


def test_words_that_the_text_encoder_does_not_know(model):
    with pytest.raises(InputError, match="expected ids below 600 .* found 914"):
        tokenizer_of(model, 600)


@pytest.mark.parametrize("always_read", [False, True])
def test_another_file_of_the_same_name_size_and_time_is_another_source(tmp_path, monkeypatch, always_read):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "LARGE", 1)
    monkeypatch.setattr(digests, "SETTLED_NS", -(10**18))  # what was just written counts as settled
    path, records = tmp_path / "model.safetensors", []
    for content in (b"fire", b"snow"):
        path.write_bytes(content)
        os.utime(path, ns=(0, 0))
        records.append(SourceRecord.of(path, always_read))
        assert SourceRecord.of(path, always_read) == records[-1]
    assert records[0].sha256 != records[1].sha256
