"""Weights of unlearned models, in the layout of each method, replace what they name and nothing else."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from diffusers import StableDiffusionPipeline

from engines.errors import InputError
from engines.manifest import Manifest
from engines.summary import summary
from export.build import build
from export.build_command import DEMO_MODEL, options
from export.sources.edits import Lora, Replacement
from export.sources.load import load_component
from export.sources.locate import find_model
from saferedir.cli import parse
from tests.export import miniature
from tests.export.pictures import drawn, drawn_by_diffusers
from tests.export.test_build import built_anew
from tests.runtime.test_pipeline import levels

Tensors = dict[str, torch.Tensor]
MODEL = find_model(str(DEMO_MODEL))


@pytest.fixture(scope="module")
def base() -> dict[str, torch.nn.Module]:
    return {component: load_component(MODEL, component) for component in ("unet", "vae", "text_encoder")}


def changed(tensors: Tensors, part: str, by: Callable[[torch.Tensor], torch.Tensor] = lambda tensor: tensor * 0.9) -> Tensors:
    """What an unlearning makes of the tensors whose name has this part."""
    return {name: by(tensor).clone() if part in name else tensor.clone() for name, tensor in tensors.items()}


def some(tensors: Tensors, *parts: str) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if any(part in name for part in parts)}


def original(base, unet: Tensors) -> Tensors:
    """A UNet's tensors under the original implementation's names."""
    module = load_component(MODEL, "unet")
    module.load_state_dict(unet)
    return {name: tensor.clone() for name, tensor in miniature.original_tensors(base | {"unet": module}).items()}


def of_unet(tensors: Tensors) -> Tensors:
    return some(tensors, "model.diffusion_model.")


def save(content: dict, file: Path) -> Path:
    if file.suffix == ".safetensors":
        safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in content.items()}, file)
    else:
        torch.save(content, file)
    return file


def replaced(file: Path, component: str) -> tuple[Tensors, list[str]]:
    """A component's tensors with a file laid over them, and what was said."""
    module, said = load_component(MODEL, component), []
    Replacement(file, component).apply(module, component, said.append)
    return dict(module.state_dict()), said


def pruned(tensor: torch.Tensor) -> torch.Tensor:
    return torch.where(torch.arange(tensor.shape[1]) % 7 == 0, 0, tensor)


# method, file → (what it holds of the unlearned UNet or text encoder, what is said)
UNET_LAYOUTS = {
    "ESD, whole, diffusers": ("esd.pt", lambda base, u: u, r"(\d+) of \1 tensors of unet replaced;"),
    "ESD, cross-attention": ("esd-x.safetensors", lambda base, u: some(u, "attn2"), "unet replaced, all of cross-attention; "),
    "ESD, original names": ("esd-sd.pt", lambda base, u: of_unet(original(base, u)), r"(\d+) of \1 tensors of unet replaced;"),
    "ESD, original names without their prefix": (
        "esd-x.pt",
        lambda base, u: {n.removeprefix("model.diffusion_model."): t for n, t in some(of_unet(original(base, u)), "attn2").items()},
        r"unet replaced, all of cross-attention; \d+ have",
    ),
    "UCE, keys and values": ("uce.safetensors", lambda base, u: some(u, "attn2.to_k", "attn2.to_v"), r"20 of \d+ tensors"),
    "MACE, a folder's file": ("diffusion_pytorch_model.safetensors", lambda base, u: u, r"(\d+) of \1 tensors"),
    "RECE, whole": ("rece.pt", lambda base, u: u, r"(\d+) of \1 tensors"),
    "FMN, as saved by a wrapper": ("fmn.pt", lambda base, u: {f"module.{n}": t for n, t in u.items()}, r"(\d+) of \1 tensors"),
    "FMN, in a training's checkpoint": ("fmn.ckpt", lambda base, u: {"state_dict": u, "step": 35}, r"(\d+) of \1 tensors"),
    "DoCo, a delta": ("delta.bin", lambda base, u: {"unet": some(u, "attn2.to_k", "attn2.to_v"), "modifier_token": {}}, "20 of"),
    "with its component's name": ("x.pt", lambda base, u: {f"unet.{n}": t for n, t in some(u, "attn2").items()}, "replaced"),
}  # fmt: skip


@pytest.mark.parametrize("layout", UNET_LAYOUTS)
def test_unets(base, tmp_path, layout):
    name, held, message = UNET_LAYOUTS[layout]
    before = dict(base["unet"].state_dict())
    after = changed(before, "attn2.to_k")
    found, said = replaced(save(held(base, after), tmp_path / name), "unet")
    assert re.search(message, said[-1]) and "; 10 have other values than the model's" in said[-1]
    assert found.keys() == after.keys() and all(torch.equal(found[key], tensor) for key, tensor in after.items())


def test_half_precision(base, tmp_path):
    after = {name: tensor.half() for name, tensor in base["unet"].state_dict().items()}
    found, _ = replaced(save(after, tmp_path / "rece.pt"), "unet")
    assert all(torch.equal(found[name], tensor.float()) for name, tensor in after.items())


def test_pruned_neurons(base, tmp_path):
    """ConceptPrune: a whole UNet with columns of its feed-forward layers set to zero."""
    after = changed(dict(base["unet"].state_dict()), "ff.net.2.weight", pruned)
    found, said = replaced(save(after, tmp_path / "conceptprune.pt"), "unet")
    assert all(torch.equal(found[name], tensor) for name, tensor in after.items()) and "10 have other values" in said[-1]


@pytest.mark.parametrize(
    "name, prefix",
    [("advunlearn.pt", "text_encoder."), ("model.safetensors", ""), ("original.pt", "cond_stage_model.transformer.")],
)
def test_text_encoders(base, tmp_path, name, prefix):
    """AdvUnlearn: of a wrapper, of a folder, and of the original implementation."""
    after = changed(dict(base["text_encoder"].state_dict()), "mlp.fc1.weight")
    file = save({prefix + key: tensor for key, tensor in after.items()}, tmp_path / name)
    found, said = replaced(file, "text_encoder")
    assert all(torch.equal(found[key], tensor) for key, tensor in after.items()) and "3 have other values" in said[-1]


def test_linear_adapters_are_merged(base, tmp_path):
    """SPM: of one dimension, under kohya's names."""
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    weight, draw = base["unet"].get_parameter(f"{layer}.weight"), torch.Generator().manual_seed(0)
    down, up = torch.randn(1, weight.shape[1], generator=draw), torch.randn(weight.shape[0], 1, generator=draw)
    name = f"lora_unet_{layer.replace('.', '_')}"
    tensors = {f"{name}.alpha": torch.tensor(1.0), f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
    found, said = replaced(save(tensors, tmp_path / "spm.safetensors"), "unet")
    torch.testing.assert_close(found[f"{layer}.weight"], weight + up @ down)
    assert said == ["an adapter, merged into 1 layers of unet"]
    module = load_component(MODEL, "unet")
    Lora(tmp_path / "spm.safetensors").apply(module, "unet", said.append)
    assert torch.equal(module.get_parameter(f"{layer}.weight"), found[f"{layer}.weight"])


def erasers() -> dict[str, Tensors]:
    """Receler's: for each transformer a network of two layers and a GELU."""
    layers = {"down.weight": torch.ones(2, 8), "down.bias": torch.ones(2), "up.weight": torch.ones(8, 2), "up.bias": torch.ones(8)}
    return {"down_blocks.0.attentions.0": layers, "mid_block.attentions.0": layers}


@pytest.mark.parametrize(
    "component, content, message",
    [
        ("unet", lambda base, u: erasers(), "found erasers as Receler's: networks of their own after its layers"),
        ("unet", lambda base, u: original(base, u), "expected weights of the unet alone, found a whole model; pass it as --model"),
        ("unet", lambda base, u: {"unet": u, "modifier_token": {"<a>": torch.ones(3)}}, "unet alone, found modifier_token too"),
        ("unet", lambda base, u: some(u, "attn2") | {"extra": torch.ones(1)}, r"1 of \d+ tensors surplus: extra"),
        ("unet", lambda base, u: {n: t[:3] for n, t in some(u, "attn2").items()}, r"misshaped: .*\(expected \[64, 96\], found"),
        ("unet", lambda base, u: {}, "cannot replace weights of UNet2DConditionModel: no tensors"),
        ("unet", lambda base, u: dict(base["text_encoder"].state_dict()), "no name fits: the file is of another component"),
        ("text_encoder", lambda base, u: u, "no name fits: the file is of another component"),
        ("unet", lambda base, u: {n: t * torch.inf for n, t in some(u, "attn2").items()}, "expected finite values"),
        ("unet", lambda base, u: {"lora_te_a.lora_down.weight": u["conv_in.bias"], "lora_te_a.lora_up.weight": u["conv_in.bias"]},
         "an adapter of the unet alone, found text_encoder too; pass it as --lora"),
        ("unet", lambda base, u: {n: "a" for n in u}, "expected a state dict"),
    ],
)  # fmt: skip
def test_what_cannot_replace(base, tmp_path, component, content, message):
    file = save(content(base, changed(dict(base["unet"].state_dict()), "attn2")), tmp_path / "weights.pt")
    with pytest.raises(InputError) as caught:
        replaced(file, component)
    assert re.search(message, str(caught.value)) and "\n" not in str(caught.value) and len(str(caught.value)) < 900


def test_only_the_replaced_network_is_built(base, demo_engines, tmp_path):
    """And the picture is that of diffusers with the same weights."""
    folder = shutil.copytree(demo_engines, tmp_path / "demo")
    after = some(changed(dict(base["unet"].state_dict()), "attn2.to_v", lambda tensor: tensor * 0.2), "attn2.to_v")
    file, lines = save(after, tmp_path / "uce.pt"), []
    build(options(parse(["build", "--engine-dir", str(folder), "--unet-weights", str(file)])), lines.append)
    assert "rebuilding because of unet (edits)" in lines[0]
    said = rf"{re.escape(str(file))}: 10 of \d+ tensors of unet replaced, all of cross-attention; 10 have other values"
    assert any(re.match(said, line) for line in lines)
    assert built_anew(lines) == ["unet"]
    manifest, _ = Manifest.read(folder)
    record = manifest.sources["unet-weights/1/uce.pt"]
    expected = [{"kind": "unet-weights", "file": "uce.pt", "sha256": record.sha256, "tensors": 10}]
    assert manifest.recipe["unet"]["edits"] == expected and "edits" not in manifest.recipe["vae_decoder"]
    assert f"unet weights         1/uce.pt, SHA-256 {record.sha256}" in summary(manifest, "")
    theirs = StableDiffusionPipeline.from_pretrained(DEMO_MODEL, safety_checker=None)
    theirs.unet.load_state_dict(after, strict=False)
    assert levels(drawn(folder, unguarded=True).images[0], drawn_by_diffusers(theirs)) <= 1
