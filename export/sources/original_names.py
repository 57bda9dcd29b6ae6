"""Weights under the names of the original implementation (ldm, by CompVis and Stability AI), brought to diffusers' names.

diffusers' own converters do it; they drop what they do not know, which is an error here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from torch import Tensor

from engines.errors import InputError
from engines.printable import shortened
from export.sources.original_file import PREFIXES

CLIP = PREFIXES["text_encoder"] + "transformer."  # OpenAI's, of Stable Diffusion 1.x
OPEN_CLIP = PREFIXES["text_encoder"] + "model."  # of Stable Diffusion 2.x
# What the names of a component's own begin with; a text encoder's always have the prefix.
_OWN = {
    "unet": ("input_blocks.", "middle_block.", "output_blocks.", "time_embed.", "out."),
    "vae": ("decoder.mid.", "encoder.mid."),
}
# Of OpenCLIP's whole text tower, and no part of the text encoder.
_UNUSED = ("text_projection", "logit_scale", "attn_mask")


def in_full(component: str, names: Iterable[str]) -> str | None:
    """What to put before every name, so that it is the original one; None where the names are of another implementation."""
    names, prefix = list(names), PREFIXES[component]
    if any(name.startswith(prefix) for name in names):
        return ""
    return prefix if any(name.startswith(_OWN.get(component, ())) for name in names) else None


def to_diffusers(component: str, tensors: Mapping[str, Tensor], config: Mapping[str, Any], file: Path) -> dict[str, Tensor]:
    """A component's tensors, or some of a UNet's, under diffusers' names. `config` is the component's, of diffusers.

    Raises:
        InputError: a tensor has no counterpart, or the config is of another kind of network.
    """
    try:
        return _converted(component, tensors, config, file)
    except InputError:
        raise
    except Exception as error:  # whatever the converters raise for tensors and options that they do not know
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise InputError(f"{file}: cannot be read as the {component} of its config: {reason}") from None


def _converted(component: str, tensors: Mapping[str, Tensor], config: Mapping[str, Any], file: Path) -> dict[str, Tensor]:
    if component == "unet":
        converted, read = _unet(tensors, config), tensors
    elif component == "vae":
        converted, read = convert_ldm_vae_checkpoint(dict(tensors), config), tensors
    elif any(name.startswith(OPEN_CLIP) for name in tensors):
        read = _of_used_layers(tensors, config["num_hidden_layers"])
        converted = convert_open_clip_checkpoint(_sized(config["hidden_size"]), read, OPEN_CLIP)
        read = {name: tensor for name, tensor in read.items() if ".in_proj_" not in name}  # is split into three
    else:
        return {name.removeprefix(CLIP): tensor for name, tensor in tensors.items()}
    kept = {tensor.untyped_storage().data_ptr() for tensor in converted.values()}
    if unused := [name for name, tensor in read.items() if tensor.untyped_storage().data_ptr() not in kept]:
        raise InputError(
            f"{file}: expected the tensors of a {component} of its config, found {len(unused)} that have no counterpart in "
            f"diffusers: {shortened(unused)}"
        )
    return converted


def _unet(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The converter counts the blocks whose names it sees, so it is shown each block's, with no tensor."""
    config = {"layers_per_block": 2, **config}
    blocks = len(config["block_out_channels"]) * (config["layers_per_block"] + 1)
    counts = {"input_blocks": blocks, "middle_block": 3, "output_blocks": blocks}
    shown = {f"{PREFIXES['unet']}{part}.{number}.": None for part, count in counts.items() for number in range(count)}
    converted = convert_ldm_unet_checkpoint({**shown, **tensors}, config)
    return {name: tensor for name, tensor in converted.items() if tensor is not None}


def _of_used_layers(tensors: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """Stable Diffusion 2.x reads the text tower's last layer but one, so the last takes no part."""
    unused = (*(OPEN_CLIP + name for name in _UNUSED), f"{OPEN_CLIP}transformer.resblocks.{layers}.")
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(unused)}


def _sized(hidden_size: int) -> SimpleNamespace:
    """What the converter reads of a text encoder."""
    return SimpleNamespace(config=SimpleNamespace(hidden_size=hidden_size))
