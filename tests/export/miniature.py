"""Models of the Stable Diffusion family in miniature: their configs with fewer and narrower layers, random weights.

`save_model` writes a diffusers folder; `original_tensors` gives the same weights the names of the original implementation.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from export.build_command import DEMO_MODEL
from export.sources.single_file import CONFIGS

Tensors = dict[str, torch.Tensor]
VOCABULARY = 915  # of the demo's tokenizer
WIDTH = 64
SMALL: dict[str, dict[str, Any]] = {
    "unet": {"block_out_channels": [32, 64, 64, 64], "cross_attention_dim": WIDTH, "sample_size": 8, "layers_per_block": 1},
    "vae": {"block_out_channels": [32, 32, 64, 64], "sample_size": 64, "layers_per_block": 1},
    "text_encoder": {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "projection_dim": WIDTH,
        "vocab_size": VOCABULARY,
        "eos_token_id": VOCABULARY - 1,
    },
}
HEADS_OF_2X = [1, 2, 2, 2]
# As their repositories have them; of some models not all files are known.
PUBLISHED = json.loads((Path(__file__).parent / "published_configs.json").read_text())
PADS = {"sd1": "<|endoftext|>", "sd2": "!"}


def configs(family: str, **changes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Component → config of "sd1" or "sd2" in miniature, with the changes of each component."""
    found = {}
    for component in ("unet", "vae", "text_encoder", "scheduler"):
        (file,) = (CONFIGS / family / component).iterdir()
        found[component] = json.loads(file.read_text()) | _small(component, family) | changes.get(component, {})
    return found


def published(name: str) -> tuple[str, dict[str, dict[str, Any]]]:
    """Family and configs of a published model in miniature, with its own fields, and model_index.json where it is known.

    What is not known of it is the family's.
    """
    own = PUBLISHED[name]
    family = {768: "sd1", 1024: "sd2"}[own["text_encoder"]["hidden_size"]]
    found = configs(family)
    for component, config in own.items():
        size = {key: config[key] for key in ("sample_size",) if key in config}
        found[component] = config | _small(component, family) | size
    return family, found


def _small(component: str, family: str) -> dict[str, Any]:
    heads = {"attention_head_dim": HEADS_OF_2X} if (component, family) == ("unet", "sd2") else {}
    return SMALL.get(component, {}) | heads


def modules(found: dict[str, dict[str, Any]], seed: int = 0) -> dict[str, torch.nn.Module]:
    """The three networks, of random weights."""
    torch.manual_seed(seed)
    return {
        "unet": diffusers.UNet2DConditionModel.from_config(copy.deepcopy(found["unet"])).eval(),
        "vae": diffusers.AutoencoderKL.from_config(copy.deepcopy(found["vae"])).eval(),
        "text_encoder": transformers.CLIPTextModel(transformers.CLIPTextConfig.from_dict(found["text_encoder"])).eval(),
    }


def save_configs(folder: Path, found: dict[str, dict[str, Any]], pad: str) -> Path:
    """A diffusers folder without weights."""
    demo_index = json.loads((DEMO_MODEL / "model_index.json").read_text())
    index = found.get("model_index", demo_index | {"scheduler": ["diffusers", found["scheduler"]["_class_name"]]})
    for component, config in found.items():
        if component == "model_index":
            continue
        (folder / component).mkdir(parents=True, exist_ok=True)
        name = "scheduler_config.json" if component == "scheduler" else "config.json"
        (folder / component / name).write_text(json.dumps(config))
    shutil.copytree(DEMO_MODEL / "tokenizer", folder / "tokenizer")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        content = json.loads((folder / "tokenizer" / name).read_text())
        (folder / "tokenizer" / name).write_text(json.dumps(content | {"pad_token": pad}))
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def save_model(folder: Path, found: dict[str, dict[str, Any]], pad: str, seed: int = 0) -> dict[str, torch.nn.Module]:
    """A whole diffusers folder; its networks."""
    made = modules(found, seed)
    for component, module in made.items():
        module.save_pretrained(folder / component)
    save_configs(folder, found, pad)
    return made


def original_tensors(made: dict[str, torch.nn.Module]) -> Tensors:
    """A whole model in a single file, as the original implementation names it."""
    unet, vae, text = made["unet"], made["vae"], made["text_encoder"]
    tensors = {f"model.diffusion_model.{_unet_name(name, unet)}": tensor for name, tensor in unet.state_dict().items()}
    levels = len(vae.config.block_out_channels)
    for name, tensor in vae.state_dict().items():
        convolution = ".attentions." in name and tensor.ndim == 2
        tensors[f"first_stage_model.{_vae_name(name, levels)}"] = tensor[:, :, None, None] if convolution else tensor
    if text.config.hidden_act == "gelu":
        return tensors | _open_clip(text)
    return tensors | {f"cond_stage_model.transformer.{name}": tensor for name, tensor in text.state_dict().items()}


_OUTSIDE = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def _unet_name(name: str, unet: Any) -> str:
    layers = unet.config.layers_per_block
    if match := re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", name):
        way, level, kind, number, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
        block = level * (layers + 1) + number
        if kind == "downsamplers":
            return f"input_blocks.{(level + 1) * (layers + 1)}.0.{rest.replace('conv', 'op')}"
        if kind == "upsamplers":
            attends = "CrossAttn" in unet.config.up_block_types[level]
            return f"output_blocks.{level * (layers + 1) + layers}.{2 if attends else 1}.{rest}"
        place = f"input_blocks.{block + 1}" if way == "down" else f"output_blocks.{block}"
        return f"{place}.{_resnet(rest, _RESNET, '0') if kind == 'resnets' else f'1.{rest}'}"
    if match := re.fullmatch(r"mid_block\.(\w+)\.(\d+)\.(.+)", name):
        return f"middle_block.{_resnet(match[3], _RESNET, str(2 * int(match[2]))) if match[1] == 'resnets' else f'1.{match[3]}'}"
    layer, _, parameter = name.rpartition(".")
    return f"{_OUTSIDE[layer]}.{parameter}"


def _resnet(rest: str, names: dict[str, str], place: str) -> str:
    layer, _, parameter = rest.partition(".")
    return f"{place}.{names[layer]}.{parameter}"


def _vae_name(name: str, levels: int) -> str:
    name = re.sub(r"up_blocks\.(\d+)", lambda match: f"up.{levels - 1 - int(match[1])}", name)
    name = re.sub(r"mid_block\.resnets\.(\d+)", lambda match: f"mid.block_{int(match[1]) + 1}", name)
    for ours, theirs in (
        ("down_blocks", "down"),
        ("resnets", "block"),
        ("downsamplers.0", "downsample"),
        ("upsamplers.0", "upsample"),
        ("conv_shortcut", "nin_shortcut"),
        ("conv_norm_out", "norm_out"),
        ("mid_block.attentions.0", "mid.attn_1"),
        ("group_norm", "norm"),
        ("to_out.0", "proj_out"),
        ("to_q", "q"),
        ("to_k", "k"),
        ("to_v", "v"),
    ):
        name = name.replace(ours, theirs)
    return name


def _open_clip(text: Any) -> Tensors:
    """OpenCLIP's names; its text tower has one more layer and a projection, which the text encoder does not use."""
    state, prefix = text.state_dict(), "cond_stage_model.model."
    tensors = {
        f"{prefix}positional_embedding": state["text_model.embeddings.position_embedding.weight"],
        f"{prefix}token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
        f"{prefix}text_projection": torch.eye(text.config.hidden_size),
        f"{prefix}logit_scale": torch.tensor(4.6),
    }
    for parameter in ("weight", "bias"):
        tensors[f"{prefix}ln_final.{parameter}"] = state[f"text_model.final_layer_norm.{parameter}"]
        for layer in range(text.config.num_hidden_layers + 1):
            ours = f"text_model.encoder.layers.{min(layer, text.config.num_hidden_layers - 1)}"
            block = f"{prefix}transformer.resblocks.{layer}"
            rows = [state[f"{ours}.self_attn.{name}_proj.{parameter}"] for name in "qkv"]
            tensors[f"{block}.attn.in_proj_{parameter}"] = torch.cat(rows)
            for mine, theirs in (
                ("self_attn.out_proj", "attn.out_proj"),
                ("layer_norm1", "ln_1"),
                ("layer_norm2", "ln_2"),
                ("mlp.fc1", "mlp.c_fc"),
                ("mlp.fc2", "mlp.c_proj"),
            ):
                tensors[f"{block}.{theirs}.{parameter}"] = state[f"{ours}.{mine}.{parameter}"].clone()
    return tensors
