"""LoRAs of every layout are merged as diffusers and PEFT merge them, or refused in one line. Networks are exported in one test."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import peft
import pytest
import safetensors.torch
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.errors import InputError
from engines.manifest import Manifest
from engines.summary import summary
from export.build import build
from export.build_command import DEMO_MODEL, options
from export.sources.edits import Lora, edits_of
from export.sources.load import load_component
from export.sources.locate import find_model
from export.sources.lora_names import layers_of
from export.sources.weights import load_strictly
from saferedir.cli import parse
from tests.export.pictures import drawn, drawn_by_diffusers
from tests.export.test_build import built_anew
from tests.runtime.test_pipeline import levels

STARTS = ("lora_unet_", "lora_te_", "unet", "text_encoder", "base_model.model")
Tensors = dict[str, torch.Tensor]
Name = Callable[[str, str, str], str]
ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"
LINEAR = tuple(f"{ATTENTION}.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0"))
FEED_FORWARD = ("down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj",)
CONVOLUTIONS = ("down_blocks.0.attentions.0.proj_in", "mid_block.resnets.0.conv1", "down_blocks.0.resnets.0.time_emb_proj")
TEXT = tuple(f"text_model.encoder.layers.1.{name}" for name in ("self_attn.q_proj", "self_attn.out_proj", "mlp.fc1"))


@pytest.fixture(scope="module")
def base() -> dict[str, torch.nn.Module]:
    source = find_model(str(DEMO_MODEL))
    return {component: load_component(source, component) for component in ("unet", "text_encoder")}


def pair(module: torch.nn.Module, layer: str, rank: int, draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Random down and up of a layer, those of a convolution with a 1x1 up."""
    shape = module.get_parameter(f"{layer}.weight").shape
    down, up = torch.randn(rank, *shape[1:], generator=draw), torch.randn(shape[0], rank, generator=draw)
    return down / 8, up.reshape(shape[0], rank, *(1 for _ in shape[2:])) / 8


def lora(
    base, unet: Iterable[str], text: Iterable[str], name: Callable[[str, str, str], str], rank: int = 4, seed: int = 0
) -> Tensors:
    """Tensors of a LoRA under the names that `name` gives them from (component, layer, "down" or "up")."""
    draw, tensors = torch.Generator().manual_seed(seed), {}
    for component, layers in (("unet", unet), ("text_encoder", text)):
        for layer in layers:
            down, up = pair(base[component], layer, rank, draw)
            tensors |= {name(component, layer, "down"): down, name(component, layer, "up"): up}
    return tensors


def kohya(component: str, layer: str, role: str) -> str:
    prefix = {"unet": "lora_unet_", "text_encoder": "lora_te_"}[component]
    return f"{prefix}{layer.replace('.', '_')}.lora_{role}.weight"


def with_alpha(tensors: Tensors, alpha: float) -> Tensors:
    return tensors | {name.split(".")[0] + ".alpha": torch.tensor(alpha) for name in tensors}


def old_diffusers(component: str, layer: str, role: str) -> str:
    for own, old in ((".to_out.0", ".to_out"), (".q_proj", ".to_q"), (".out_proj", ".to_out")):
        layer = layer.replace(own, old)
    layer = layer.replace("attn2.", "attn2.processor.")
    return f"{component}.{layer}{'.lora_linear_layer' if 'mlp' in layer else '_lora'}.{role}.weight"


def diffusers(component: str, layer: str, role: str) -> str:
    return f"{component}.{layer}.{'lora' if component == 'unet' else 'lora_linear_layer'}.{role}.weight"


def peft_names(component: str, layer: str, role: str) -> str:
    return f"{component}.{layer}.lora_{'A' if role == 'down' else 'B'}.weight"


def saved(tensors: Mapping[str, torch.Tensor], file: Path, metadata: dict[str, str] | None = None) -> Path:
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    if file.suffix == ".safetensors":
        safetensors.torch.save_file(contiguous, file, metadata=metadata)
    else:
        torch.save(contiguous, file)
    return file


def ours(*loras: Lora) -> dict[str, Tensors]:
    """Every weight with the LoRAs merged in."""
    source, found = find_model(str(DEMO_MODEL)), {}
    for component in ("unet", "text_encoder"):
        module = load_component(source, component)
        for each in edits_of(loras, component):
            each.apply(module, component, print)
        found[component] = dict(module.state_dict())
    return found


def theirs(*loras: Lora) -> dict[str, Tensors]:
    """The same by diffusers, one after the other."""
    pipeline = StableDiffusionPipeline.from_pretrained(DEMO_MODEL, safety_checker=None)
    for each in loras:
        pipeline.load_lora_weights(str(each.path.parent), weight_name=each.path.name)
        pipeline.fuse_lora(lora_scale=each.scale)
        pipeline.unload_lora_weights()
    return {name: dict(getattr(pipeline, name).state_dict()) for name in ("unet", "text_encoder")}


def assert_equal(found: Mapping[str, Tensors], expected: Mapping[str, Tensors], base, changed: Iterable[str]) -> None:
    """Of each weight, and that the LoRA changed those that it names and no others."""
    for component, tensors in expected.items():
        original = base[component].state_dict()
        assert found[component].keys() == tensors.keys()
        for name, tensor in tensors.items():
            torch.testing.assert_close(found[component][name], tensor, rtol=1e-5, atol=1e-6)
            assert torch.equal(found[component][name], original[name]) != (name.removesuffix(".weight") in changed), name


@pytest.mark.parametrize(
    "unet, text, name, alpha, suffix",
    [
        (LINEAR + FEED_FORWARD, TEXT, kohya, 2.0, ".safetensors"),
        (LINEAR + FEED_FORWARD, TEXT, kohya, None, ".safetensors"),
        (LINEAR + CONVOLUTIONS, (), kohya, 3.0, ".safetensors"),
        (LINEAR, TEXT, old_diffusers, None, ".bin"),
        (LINEAR + CONVOLUTIONS, TEXT, diffusers, None, ".safetensors"),
        (LINEAR + CONVOLUTIONS, TEXT, peft_names, None, ".safetensors"),
        ((), TEXT, peft_names, None, ".safetensors"),
    ],
    ids=["kohya", "kohya without alpha", "convolutions", "old diffusers", "diffusers", "peft", "text encoder alone"],
)
def test_layouts(base, tmp_path, unet, text, name, alpha, suffix):
    tensors = lora(base, unet, text, name)
    file = saved(tensors if alpha is None else with_alpha(tensors, alpha), tmp_path / f"style{suffix}")
    assert_equal(ours(Lora(file, -0.7)), theirs(Lora(file, -0.7)), base, {*unet, *text})
    touched = [component for component in ("unet", "text_encoder", "vae") if Lora(file).touches(component)]
    assert touched == [component for component, layers in (("unet", unet), ("text_encoder", text)) if layers]


def test_half_precision_and_several_files(base, tmp_path):
    first = with_alpha(lora(base, LINEAR, TEXT, kohya, rank=8), 4.0)
    files = (
        saved({name: tensor.half() for name, tensor in first.items()}, tmp_path / "a.safetensors"),
        saved(lora(base, LINEAR, (), peft_names, seed=1), tmp_path / "b.safetensors"),
    )
    loras = (Lora(files[0], 0.8), Lora(files[1], 0.5))
    assert_equal(ours(*loras), theirs(*loras), base, {*LINEAR, *TEXT})


def test_merging_leaves_the_tensors_that_a_module_was_made_from(base, tmp_path):
    """A module may share them with a pickled file's content, from which the build makes it more than once."""
    file = saved(lora(base, LINEAR, (), kohya), tmp_path / "a.safetensors")
    content = {name: tensor.clone() for name, tensor in base["unet"].state_dict().items()}
    found = []
    for _ in range(2):
        module = load_strictly(UNet2DConditionModel.from_config(base["unet"].config), content, file, print)
        Lora(file).apply(module, "unet", print)
        found.append(module.state_dict())
    assert all(torch.equal(first, found[1][name]) for name, first in found[0].items())
    assert all(torch.equal(tensor, content[name]) for name, tensor in base["unet"].state_dict().items())


def trained(module: torch.nn.Module, **settings) -> torch.nn.Module:
    """PEFT's own LoRA of a module, with values as after a training."""
    torch.manual_seed(0)
    wrapped = peft.get_peft_model(module, peft.LoraConfig(init_lora_weights=False, **settings))
    return wrapped.eval()


SETTINGS = {"r": 4, "lora_alpha": 6, "target_modules": ["to_q", "to_v"], "alpha_pattern": {"attn1.to_q": 3, "up_blocks.*.to_v": 9}}


@pytest.mark.parametrize("stabilized", [False, True])
def test_what_peft_saves(base, tmp_path, stabilized):
    wrapped = trained(load_component(find_model(str(DEMO_MODEL)), "unet"), use_rslora=stabilized, **SETTINGS)
    wrapped.save_pretrained(tmp_path)
    found = ours(Lora(tmp_path / "adapter_model.safetensors"))["unet"]
    for name, tensor in wrapped.merge_and_unload().state_dict().items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(InputError, match=r"adapter_config.json: expected beside a LoRA that PEFT saved.* found none"):
        ours(Lora(tmp_path / "adapter_model.safetensors"))


def test_what_diffusers_saves(base, tmp_path):
    """Its alphas are in the file's header."""
    wrapped = trained(load_component(find_model(str(DEMO_MODEL)), "unet"), **SETTINGS)
    layers = convert_state_dict_to_diffusers(peft.get_peft_model_state_dict(wrapped))
    layers = {name.removeprefix("base_model.model."): tensor for name, tensor in layers.items()}
    config = wrapped.peft_config["default"].to_dict()
    StableDiffusionPipeline.save_lora_weights(tmp_path, layers, unet_lora_adapter_metadata=config)
    each = Lora(tmp_path / "pytorch_lora_weights.safetensors", 0.6)
    found, expected = ours(each)["unet"], theirs(each)["unet"]
    assert any(not torch.equal(found[name], tensor) for name, tensor in base["unet"].state_dict().items())
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "config, message",
    [
        ("{", "its PEFT config is not valid JSON"),
        ("[]", "expected an object as PEFT config, found list"),
        ('{"unet.lora_alpha": "4"}', "'lora_alpha' of its PEFT config: expected a layer's name and a number, found '4'"),
        ('{"unet.lora_alpha": 4, "unet.alpha_pattern": [1]}', "'alpha_pattern' of its PEFT config: .* found .1."),
        ('{"unet.lora_alpha": 4, "unet.alpha_pattern": {"(": 1}}', r"'\(' of its PEFT config"),
        ('{"unet.lora_alpha": 4, "unet.use_dora": true}', "expected a plain LoRA, found use_dora in its PEFT config"),
    ],
)
def test_headers_that_cannot_be_used(base, tmp_path, config, message):
    file = saved(lora(base, LINEAR, (), peft_names), tmp_path / "a.safetensors", {"lora_adapter_metadata": config})
    with pytest.raises(InputError, match=message):
        ours(Lora(file))


PIECES = st.sampled_from([*STARTS, "down_blocks", "text_model", "_", "to_q", "lora_A", "lora_up", "weight", "alpha", "\n"])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.text(max_size=30), st.lists(PIECES, max_size=8).map(".".join)), max_size=6, unique=True))
def test_names_of_any_kind_are_read_or_refused(names):
    try:
        layers = layers_of(Path("a.safetensors"), names)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        tensors = [tensor for found in layers.values() for layer in found.values() for tensor in layer if tensor is not None]
        assert sorted(tensors) == sorted(names)


def without(tensors: Tensors, part: str) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if part not in name}


def renamed(tensors: Tensors, old: str, new: str) -> Tensors:
    return {name.replace(old, new): tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t | {"lora_unet_mid_block.hada_w1_a": torch.ones(1)}, "expected a LoRA .* found a LoHa"),
        (lambda t: renamed(t, "lora_down", "lokr_w1"), "found a LoKr"),
        (lambda t: t | {"lora_unet_mid_block.lora_mid.weight": torch.ones(1)}, "found a LoCon with a Tucker decomposition"),
        (lambda t: t | {"lora_unet_x.dora_scale": torch.ones(1)}, "found a DoRA"),
        (lambda t: renamed(t, "lora_unet", "lora_te2"), "found a LoRA of Stable Diffusion XL"),
        (lambda t: t | {f"extra.{n}": torch.ones(1) for n in range(9)}, "found 9 that fit none: extra.0; .*; and 4 more"),
        (lambda t: without(t, "to_q.lora_up"), "found 1 that fit none: lora_unet_.*to_q.lora_down.weight"),
        (lambda t: renamed(t, "down_blocks_0", "down_blocks_9"), "layers of this model's unet, found 4 that fit none"),
        (lambda t: {}, "expected a LoRA's pairs of tensors .*, found none"),
        (lambda t: {name: tensor[:, :2].contiguous() for name, tensor in t.items()}, "expected up and down for a weight of"),
        (lambda t: {name: tensor[0] for name, tensor in t.items()}, r"lora_down.weight: expected a matrix, found shape \[\d+\]"),
        (lambda t: {name: tensor[:0] for name, tensor in t.items()}, r"expected a matrix, found shape \[0, \d+\]"),
        (lambda t: {name: tensor * torch.nan for name, tensor in t.items()}, "expected finite values"),
        (lambda t: t | {name.split(".")[0] + ".alpha": torch.ones(2) for name in t}, "alpha: expected a number, found shape"),
    ],
)  # fmt: skip
def test_what_is_no_lora_of_this_model(base, tmp_path, change, message):
    file = saved(change(lora(base, LINEAR, (), kohya)), tmp_path / "style.safetensors")
    with pytest.raises(InputError, match=message) as caught:
        ours(Lora(file))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700


def test_one_layer_under_two_names(base, tmp_path):
    file = saved(lora(base, LINEAR, (), kohya) | lora(base, LINEAR, (), diffusers), tmp_path / "style.safetensors")
    with pytest.raises(InputError, match="expected each layer once, found .*attn2.to_k under two names"):
        ours(Lora(file))


def test_ranks_that_differ_need_alphas(base, tmp_path):
    tensors = lora(base, LINEAR[:2], (), kohya, rank=4) | lora(base, LINEAR[2:], (), kohya, rank=2)
    with pytest.raises(InputError, match=r"as ranks differ \(2 to 4\), found none"):
        ours(Lora(saved(tensors, tmp_path / "a.safetensors")))
    each = Lora(saved(with_alpha(tensors, 2.0), tmp_path / "b.safetensors"))
    assert_equal(ours(each), theirs(each), base, LINEAR)


def test_each_layer_has_its_own_alpha(base, tmp_path):
    """As PEFT's definition has it. diffusers 0.39 gives attention layers of kohya's files the most common alpha instead."""
    tensors = lora(base, LINEAR, TEXT, kohya)
    alphas = {name.split(".")[0]: float(1 + place) for place, name in enumerate(tensors) if "lora_down" in name}
    file = saved(tensors | {f"{layer}.alpha": torch.tensor(alpha) for layer, alpha in alphas.items()}, tmp_path / "a.safetensors")
    found = ours(Lora(file, 0.5))
    for component, layers in (("unet", LINEAR), ("text_encoder", TEXT)):
        for layer in layers:
            down, up = (tensors[kohya(component, layer, role)] for role in ("down", "up"))
            alpha, weight = alphas[kohya(component, layer, "down").split(".")[0]], base[component].get_parameter(f"{layer}.weight")
            torch.testing.assert_close(found[component][f"{layer}.weight"], weight + 0.5 * alpha / 4 * up @ down)


@pytest.mark.parametrize(
    "text, path, scale",
    [
        ("a.safetensors", "a.safetensors", 1),
        ("a.safetensors:0.8", "a.safetensors", 0.8),
        ("C:\\loras\\a.pt", "C:\\loras\\a.pt", 1),
        ("a:-1", "a", -1),
    ],
)
def test_option(text, path, scale):
    assert Lora.parse(text) == Lora(Path(path), scale)


def test_option_that_is_no_number(tmp_path):
    with pytest.raises(InputError, match="--lora: expected a finite number as scale, found 'inf'"):
        Lora.parse("a.safetensors:inf")
    (tmp_path / "a.safetensors").touch()
    with pytest.raises(InputError, match="--lora: expected a finite number as scale, found '0,8'"):
        Lora.parse(f"{tmp_path / 'a.safetensors'}:0,8")
    with pytest.raises(InputError, match="nowhere.safetensors: expected a file of weights, found no such file"):
        build(options(parse(["build", "--lora", "nowhere.safetensors", "--engine-dir", str(tmp_path / "e")])))


def test_only_the_networks_that_a_lora_touches_are_built(base, demo_engines, tmp_path):
    """And the picture is that of diffusers."""
    folder = shutil.copytree(demo_engines, tmp_path / "demo")
    file = saved(with_alpha(lora(base, LINEAR + FEED_FORWARD, (), kohya), 2.0), tmp_path / "style.safetensors")
    lines: list[str] = []
    build(options(parse(["build", "--engine-dir", str(folder), "--lora", f"{file}:0.8"])), lines.append)
    assert "rebuilding because of unet (edits)" in lines[0]
    assert f"{file}: merged into 5 layers of unet, scale 0.8" in lines
    assert built_anew(lines) == ["unet"]
    manifest, _ = Manifest.read(folder)
    record = manifest.sources["lora/1/style.safetensors"]
    expected = [{"kind": "lora", "file": "style.safetensors", "sha256": record.sha256, "scale": 0.8}]
    assert manifest.recipe["unet"]["edits"] == expected and "edits" not in manifest.recipe["text_encoder"]
    assert f"lora                 1/style.safetensors, SHA-256 {record.sha256}" in summary(manifest, "")
    (found,) = drawn(folder, unguarded=True).images
    reference = StableDiffusionPipeline.from_pretrained(DEMO_MODEL, safety_checker=None)
    before = drawn_by_diffusers(reference)
    reference.load_lora_weights(str(tmp_path), weight_name=file.name)
    reference.fuse_lora(lora_scale=0.8)
    assert levels(found, drawn_by_diffusers(reference)) <= 1 < levels(found, before)
    assert json.loads((folder / "manifest.json").read_text())["command"].endswith(f"{file}:0.8")
