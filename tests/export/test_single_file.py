"""Models in a single file: every tensor in its place, what the file does not say found out, or refused in one line."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path

import diffusers
import huggingface_hub.constants
import pytest
import safetensors.torch
import torch
import transformers
from accelerate import init_empty_weights

from engines.errors import InputError
from engines.manifest import Manifest
from export.build import build
from export.build_command import DEMO_MODEL, DEMO_REDIRECTOR, options
from export.sources import single_file
from export.sources.load import load_component
from export.sources.locate import find_model
from export.sources.model_folder import Source
from export.sources.prediction import noise_correlation, shown_prediction
from export.sources.tokenizer_files import load_tokenizer
from runtime import read_png
from saferedir.cli import main, parse
from tests.export import miniature
from tests.export.pictures import PROMPT, drawn, drawn_by_diffusers
from tests.runtime.test_pipeline import levels

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."
WIDTHS = {"sd1": 64, "sd2": 96}  # of the miniatures


def small(family: str) -> dict:
    width = WIDTHS[family]
    changes = {"unet": {"layers_per_block": 2, "cross_attention_dim": width}, "text_encoder": {"hidden_size": width}}
    return miniature.configs(family, **changes)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, tuple[Path, dict[str, torch.nn.Module]]]:
    """family → a model in a single file, with its tokenizer beside it, and its networks."""
    found = {}
    for family in WIDTHS:
        folder = tmp_path_factory.mktemp(family)
        made = miniature.save_model(folder, small(family), miniature.PADS[family])
        found[family] = save(miniature.original_tensors(made), folder / "model.safetensors"), made
    return found


@pytest.fixture
def shipped(tmp_path, monkeypatch) -> None:
    """The families' configs are those of the miniatures."""
    for family in WIDTHS:
        miniature.save_configs(tmp_path / "configs" / family, small(family), miniature.PADS[family])
    monkeypatch.setattr(single_file, "CONFIGS", tmp_path / "configs")
    monkeypatch.setattr(single_file, "FAMILIES", {width: family for family, width in WIDTHS.items()})


def save(tensors: dict[str, torch.Tensor], file: Path) -> Path:
    """As .safetensors, or as what a training of the original implementation saves."""
    tensors = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    if file.suffix == ".safetensors":
        safetensors.torch.save_file(tensors, file)
    else:
        torch.save({"epoch": 3, "global_step": 470000, "state_dict": tensors, "callbacks": {}}, file)
    return file


def equal(source: Source, made: dict[str, torch.nn.Module]) -> None:
    for component, module in made.items():
        found, expected = load_component(source, component).state_dict(), module.state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("family", WIDTHS)
def test_every_tensor_is_in_its_place(files, shipped, tmp_path, family, suffix):
    file, made = files[family]
    if suffix == ".ckpt":
        shutil.copytree(file.parent / "tokenizer", tmp_path / "tokenizer")
        file = save(safetensors.torch.load_file(file), tmp_path / "model.ckpt")
    source = find_model(str(file))
    equal(source, made)
    assert source.geometry.embed_dim == WIDTHS[family]
    assert source.files("unet")[0].parts[-3:] == (family, "unet", "config.json") and source.files("vae")[1] == file
    assert f"prompt width {WIDTHS[family]}, v_prediction" in source.notes()  # of random weights no noise comes back


def test_a_file_without_an_autoencoder_takes_another(files, shipped, tmp_path):
    file, made = files["sd1"]
    shutil.copytree(file.parent / "tokenizer", tmp_path / "tokenizer")
    tensors = {name: tensor for name, tensor in safetensors.torch.load_file(file).items() if not name.startswith(VAE)}
    alone = save(tensors, tmp_path / "model.safetensors")
    equal(find_model(str(alone), vae=str(file.parent / "vae")), made)
    with pytest.raises(InputError, match="expected a whole model .* found no vae; pass one as --vae"):
        find_model(str(alone))
    with pytest.raises(InputError, match="found no text_encoder"):
        find_model(str(save({f"{VAE}x": torch.ones(1)}, tmp_path / "vae.safetensors")), vae=str(file.parent / "vae"))


@pytest.mark.parametrize("family", WIDTHS)
def test_diffusers_reads_the_same(files, family):
    file, made = files[family]
    theirs = diffusers.StableDiffusionPipeline.from_single_file(str(file), config=str(file.parent), safety_checker=None)
    source = find_model(str(file), file.parent)
    equal(source, {component: getattr(theirs, component) for component in made})
    assert source.scheduler["_class_name"] == type(theirs.scheduler).__name__
    assert source.scheduler["prediction_type"] == theirs.scheduler.config.prediction_type


def test_configs_of_the_families_in_full_size():
    """Parameters of Stable Diffusion 1.5 and 2.1."""
    sizes = {"sd1": (859_520_964, 83_653_863, 123_060_480), "sd2": (865_910_724, 83_653_863, 340_387_840)}
    for family, expected in sizes.items():
        config = {name: json.loads((single_file.CONFIGS / family / name / "config.json").read_text()) for name in ("unet", "vae")}
        text = json.loads((single_file.CONFIGS / family / "text_encoder/config.json").read_text())
        with init_empty_weights():
            made = (
                diffusers.UNet2DConditionModel.from_config(config["unet"]),
                diffusers.AutoencoderKL.from_config(config["vae"]),
                transformers.CLIPTextModel(transformers.CLIPTextConfig.from_dict(text)),
            )
        assert tuple(sum(parameter.numel() for parameter in module.parameters()) for module in made) == expected


class PredictsV(torch.nn.Module):
    """What the demo's UNet predicts, as v."""

    def __init__(self, unet: torch.nn.Module) -> None:
        super().__init__()
        self.unet, self.config = unet, unet.config
        self.alpha = diffusers.DDIMScheduler.from_pretrained(DEMO_MODEL / "scheduler").alphas_cumprod

    def forward(self, sample, timestep, prompt, return_dict):
        noise, alpha = self.unet(sample, timestep, prompt, return_dict=False)[0], self.alpha[timestep]
        clean = (sample - (1 - alpha).sqrt() * noise) / alpha.sqrt()
        return (alpha.sqrt() * noise - (1 - alpha).sqrt() * clean,)


class Mixed(PredictsV):
    def forward(self, sample, timestep, prompt, return_dict):
        return (sample + torch.randn(sample.shape, generator=torch.Generator().manual_seed(1)),)


def test_what_a_unet_predicts_is_seen():
    unet = load_component(find_model(str(DEMO_MODEL)), "unet")
    assert shown_prediction(unet) == "epsilon" and noise_correlation(unet) > 0.99
    assert shown_prediction(PredictsV(unet)) == "v_prediction" and noise_correlation(PredictsV(unet)) < 0
    assert shown_prediction(Mixed(unet)) is None


def test_a_size_that_follows_from_the_prediction(files, shipped, monkeypatch):
    file, _ = files["sd2"]
    assert find_model(str(file)).geometry.default_height == 8 * 8  # that of the config
    monkeypatch.setattr("export.sources.prediction.shown_prediction", lambda unet: "epsilon")
    assert find_model(str(file)).geometry.default_height == 64 * 8
    monkeypatch.setattr("export.sources.prediction.shown_prediction", lambda unet: None)
    with pytest.raises(InputError, match="predicts noise or v, found neither .* --config FOLDER with scheduler/"):
        find_model(str(file))


def alphas(rescaled: bool) -> torch.Tensor:
    config = diffusers.DDIMScheduler.from_pretrained(DEMO_MODEL / "scheduler").config
    return diffusers.DDIMScheduler.from_config(config, rescale_betas_zero_snr=rescaled).alphas_cumprod


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: {n: v for n, v in t.items() if not n.startswith(VAE)}, "tensors first_stage_model.…, found no vae"),
        (lambda t: {n.removeprefix(UNET): v for n, v in t.items() if n.startswith(UNET)}, "a UNet alone: pass it as"),
        (lambda t: {"lora_unet_x.lora_up.weight": torch.ones(1)}, "it is a LoRA: pass it as --lora"),
        (lambda t: {"conditioner.embedders.1.x": torch.ones(1)}, "it is of Stable Diffusion XL"),
        (lambda t: t | {f"control.{n}": torch.ones(1) for n in range(7)}, "found 7 others: control.0; .*control.4; and 2 more"),
        (lambda t: t | {"alphas_cumprod": alphas(True)}, r"ending in \[0.00466\], found another, ending in \[0.\]; pass --config"),
        (lambda t: t | {"alphas_cumprod": torch.ones(10)}, "expected Stable Diffusion's noise schedule"),
        (lambda t: {n: v for n, v in t.items() if "middle_block.1" not in n}, r"\d+ of \d+ tensors missing: mid_block.attentions"),
        (lambda t: t | {f"{UNET}input_blocks.0.9.x": torch.ones(1)}, "unet .* 1 that have no counterpart .*input_blocks.0.9.x"),
        (lambda t: t | {f"{UNET}label_emb.0.0.weight": torch.ones(1)}, "1 that have no counterpart in diffusers: .*label_emb"),
        (lambda t: t | {f"{VAE}loss.x": torch.ones(1)}, "vae .* 1 that have no counterpart in diffusers: first_stage_model.loss.x"),
        (lambda t: t | {f"{TEXT}transformer.extra": torch.ones(1)}, "1 of 36 tensors surplus: extra"),
        (lambda t: t | {f"{UNET}out.2.bias": torch.full((4,), torch.nan)}, "conv_out.bias: expected finite values"),
    ],
)  # fmt: skip
def test_what_is_no_whole_model_of_the_family(files, shipped, tmp_path, change, message):
    file, _ = files["sd1"]
    shutil.copytree(file.parent / "tokenizer", tmp_path / "tokenizer")
    changed = save(change(safetensors.torch.load_file(file)), tmp_path / "model.safetensors")
    with pytest.raises(InputError) as caught:
        source = find_model(str(changed))
        for component in ("unet", "vae", "text_encoder"):
            load_component(source, component)
    assert re.search(message, str(caught.value)) and "\n" not in str(caught.value) and len(str(caught.value)) < 700


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_a_training_leaves_in_the_file(files, shipped, tmp_path, dtype):
    """Its average, the noise schedule, and the last layer of OpenCLIP's text tower."""
    file, made = files["sd2"]
    shutil.copytree(file.parent / "tokenizer", tmp_path / "tokenizer")
    extra = {"model_ema.decay": torch.ones(()), "alphas_cumprod": alphas(False).to(dtype), "betas": torch.ones(1000)}
    source = find_model(str(save(safetensors.torch.load_file(file) | extra, tmp_path / "model.safetensors")))
    equal(source, made)
    assert "1 tensors of the training's average (EMA) are not read" in source.notes()


def test_merges_of_older_programs(files, shipped, tmp_path):
    """Without `text_model.`, and with the numbers of the positions, in half precision."""
    file, made = files["sd1"]
    shutil.copytree(file.parent / "tokenizer", tmp_path / "tokenizer")
    tensors = {name.replace("transformer.text_model.", "transformer."): t for name, t in safetensors.torch.load_file(file).items()}
    tensors[f"{TEXT}transformer.embeddings.position_ids"] = torch.arange(77).half().reshape(1, 77)
    equal(find_model(str(save(tensors, tmp_path / "merge.safetensors"))), made)


def test_pickled_objects_are_not_loaded(tmp_path):
    content = io.BytesIO()
    torch.save({"state_dict": {}, "callbacks": [Path("x")]}, content)
    (tmp_path / "model.ckpt").write_bytes(content.getvalue())
    with pytest.raises(InputError, match="found other pickled objects or no pickle; objects are not loaded"):
        find_model(str(tmp_path / "model.ckpt"))


def test_files_that_are_something_else(tmp_path):
    for name, content, message in (
        ("a.safetensors", b"", "cannot be read as .safetensors weights"),
        ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        ("a.gguf", b"", "expected a file ending in one of .safetensors, .ckpt.* found '.gguf'"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=message):
            find_model(str(tmp_path / name))


def test_the_tokenizer_must_be_somewhere(files, shipped, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    file = shutil.copy(files["sd2"][0], tmp_path)
    with pytest.raises(InputError, match="a single file has no tokenizer; expected CLIP's vocab.json .* could not be downloaded"):
        find_model(str(file))
    shutil.copytree(DEMO_MODEL / "tokenizer", tmp_path / "tokenizer")
    source = find_model(str(file))
    with pytest.raises(InputError, match=r"pad_token: expected '!', as this model's family has, found '<\|endoftext\|>'"):
        load_tokenizer(source.files("tokenizer"), 915, source.pad_token)


def test_config_is_a_folder_and_for_single_files(files, tmp_path):
    file, _ = files["sd1"]
    with pytest.raises(InputError, match=r"width: expected 768 .* or 1024 .*, found 64; for another model pass --config"):
        find_model(str(file))
    with pytest.raises(InputError, match="nowhere: expected a folder of configs"):
        find_model(str(file), tmp_path / "nowhere")
    for model, found in ((str(DEMO_MODEL), "a folder"), ("nowhere.safetensors", "none")):
        with pytest.raises(InputError, match=f"expected a single file for --config, found {found}; folders have their own"):
            find_model(model, file.parent)


def test_a_single_file_builds_and_gives_diffusers_picture(demo_engines, tmp_path, monkeypatch):
    """The demo as a single file, with a LoRA; the guard is the demo's. Then the only engines there are need no name."""
    monkeypatch.setenv("SAFEREDIR_HOME", str(tmp_path))
    folder, file = shutil.copytree(demo_engines, tmp_path / "engines/plans/my"), tmp_path / "my.ckpt"
    source = find_model(str(DEMO_MODEL))
    made = {component: load_component(source, component) for component in ("unet", "vae", "text_encoder")}
    save(miniature.original_tensors(made), file)
    layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_v"
    width, draw = made["unet"].config.block_out_channels[-1], torch.Generator().manual_seed(0)
    down, up = torch.randn(4, 96, generator=draw) / 16, torch.randn(width, 4, generator=draw) / 16
    save({f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up}, tmp_path / "style.safetensors")
    command = ["build", "--model", str(file), "--config", str(DEMO_MODEL), "--redirector", str(DEMO_REDIRECTOR)]
    command += ["--lora", f"{tmp_path / 'style.safetensors'}:0.8"]
    lines: list[str] = []
    build(options(parse([*command, "--concept", "fire"])), lines.append)
    assert f"{file}: prompt width 96, epsilon" in lines
    manifest, _ = Manifest.read(folder)
    assert manifest.sources["unet/my.ckpt"].sha256 == manifest.sources["vae/my.ckpt"].sha256
    result = drawn(folder)
    assert result.reports[0].verdict == "safe"
    theirs = diffusers.StableDiffusionPipeline.from_single_file(str(file), config=str(DEMO_MODEL), safety_checker=None)
    theirs.load_lora_weights(str(tmp_path), weight_name="style.safetensors")
    theirs.fuse_lora(lora_scale=0.8)
    assert levels(result.images[0], drawn_by_diffusers(theirs)) <= 1
    named = ["--scheduler", "DPM++ 2M Karras", "--num-inference-steps", "20", "--output", str(tmp_path / "out.png")]
    assert main(["generate", PROMPT, *named]) == 0
    report = read_png(tmp_path / "out.png")
    assert report["sampler_options"]["use_karras_sigmas"] and report["verdict"] == "safe"


def test_configs_of_another_kind(files, shipped, tmp_path):
    file, _ = files["sd1"]
    folder = miniature.save_configs(tmp_path / "configs of mine", small("sd1"), "!")
    (folder / "unet/config.json").write_text(json.dumps(small("sd1")["unet"] | {"layers_per_block": [2, 2, 2, 2]}))
    with pytest.raises(InputError, match="cannot be read as the unet of its config: TypeError"):
        load_component(find_model(str(file), folder), "unet")


def test_engines_are_named_after_the_file(tmp_path, monkeypatch):
    monkeypatch.delenv("SAFEREDIR_HOME", raising=False)
    (tmp_path / "dreamy.v2.safetensors").write_bytes(b"")
    request = options(parse(["build", "--model", str(tmp_path / "dreamy.v2.safetensors"), "--unguarded"]))
    assert request.engine_dir == Path("engines/plans/dreamy.v2")
