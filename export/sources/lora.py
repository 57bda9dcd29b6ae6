"""LoRA (Hu et al. 2021, arXiv:2106.09685) merged into linear layers and convolutions: W + scale · α/r · up·down."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from engines.errors import InputError
from engines.printable import shown
from export.sources.lora_names import PEFT, Layer, layers_of, listed
from export.sources.weights import as_float32
from saferedir.checkpoint import read_tensors

CONFIG = "adapter_config.json"  # PEFT's, beside the tensors that it saves
METADATA = "lora_adapter_metadata"  # the same, in the header of diffusers' files
# Options of PEFT that give another sum than that of this module's docstring.
_REFUSED = ("use_dora", "lora_bias", "fan_in_fan_out", "megatron_config", "target_parameters")


@torch.no_grad()
def merge_lora(module: nn.Module, component: str, file: Path, scale: float) -> int:
    """Add what a LoRA file has for `component` to the module's weights, in float32; the number of layers that it changed.

    Equal to diffusers' `load_lora_weights` and `fuse_lora`, but that every tensor of the file must be used, and that each layer
    has its own alpha: diffusers 0.39 reads kohya's alphas of attention layers under names that no layer has.

    Raises:
        InputError: the file is no LoRA, or has layers that the module lacks or of another shape.
    """
    tensors = read_tensors(file)
    layers, targets = layers_of(file, tensors).get(component, {}), _targets(module, component)
    if unknown := [layer.down for name, layer in layers.items() if name not in targets]:
        raise InputError(f"{file}: expected layers of this model's {component}, found {listed(unknown)}")
    if odd := [name for layer in layers.values() for name in layer[:2] if tensors[name].ndim < 2 or not tensors[name].numel()]:
        raise InputError(f"{file}: {odd[0]}: expected a matrix, found shape {list(tensors[odd[0]].shape)}")
    names = [targets[layer] for layer in layers]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{file}: expected each layer once, found {twice} under two names")
    alphas = _Alphas.of(file, tensors, component)
    ranks = {tensors[layer.down].shape[0] for layer in layers.values() if layer.alpha is None}
    if len(ranks) > 1 and alphas.default is None:
        raise InputError(f"{file}: expected an alpha for each layer, as ranks differ ({min(ranks)} to {max(ranks)}), found none")
    for layer, name in zip(layers.values(), names, strict=True):
        target, rank = module.get_submodule(name), tensors[layer.down].shape[0]
        weight, factor = target.get_parameter("weight"), alphas.factor(name, rank, _own_alpha(file, layer, tensors))
        # A tensor of its own: the module may share the one that it has with a file's content, from which others are made.
        target.weight = nn.Parameter(weight.add(_product(file, layer, tensors, weight.shape), alpha=scale * factor))
    return len(layers)


def _targets(module: nn.Module, component: str) -> dict[str, str]:
    """Every name that a file may give a layer → the module's own."""
    found: dict[str, str] = {}
    for name, layer in module.named_modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            found |= dict.fromkeys(_aliases(name, component), name)
    return found


def _aliases(name: str, component: str) -> tuple[str, ...]:
    """PEFT's name, kohya's, and that of diffusers' old attention processors."""
    if component == "unet":
        old = re.sub(r"\.to_out\.0$", ".to_out", name)
    else:
        old = re.sub(r"\.self_attn\.(q|k|v|out)_proj$", r".self_attn.to_\1", name)
    return name, name.replace(".", "_"), old


def _product(file: Path, layer: Layer, tensors: Mapping[str, Tensor], shape: torch.Size) -> Tensor:
    """up·down in the shape of the layer's weight. A convolution's `up` is 1x1."""
    down, up = (as_float32(file, name, tensors[name]).flatten(1) for name in (layer.down, layer.up))
    if (found := (up.shape[0], up.shape[1], down.shape[1])) != (shape[0], down.shape[0], math.prod(shape[1:])):
        raise InputError(
            f"{file}: {layer.up}: expected up and down for a weight of {list(shape)} (up [{shape[0]}, r], down "
            f"[r, {math.prod(shape[1:])}]), found {list(found[:2])} and {list(down.shape)}"
        )
    return (up @ down).reshape(shape)


def _own_alpha(file: Path, layer: Layer, tensors: Mapping[str, Tensor]) -> float | None:
    """α of a layer that has a tensor for it."""
    if layer.alpha is None:
        return None
    if (tensor := as_float32(file, layer.alpha, tensors[layer.alpha])).numel() != 1:
        raise InputError(f"{file}: {layer.alpha}: expected a number, found shape {list(tensor.shape)}")
    return tensor.item()


@dataclass(frozen=True)
class _Alphas:
    """α of the layers that have no tensor for it, from PEFT's config; without one, each layer's rank."""

    default: float | None
    patterns: Mapping[str, float]
    rank_stabilized: bool

    @classmethod
    def of(cls, file: Path, tensors: Mapping[str, Tensor], component: str) -> _Alphas:
        config = _config(file, tensors, component)
        if config is None:
            return cls(None, {}, False)
        if refused := [key for key in _REFUSED if config.get(key)]:
            raise InputError(f"{file}: expected a plain LoRA, found {refused[0]} in its PEFT config")
        alpha, patterns = config.get("lora_alpha"), config.get("alpha_pattern") or {}
        named = patterns if isinstance(patterns, dict) else {"alpha_pattern": patterns}
        for key, value in {"lora_alpha": alpha, **named}.items():
            if not _is_number(value) or not _is_pattern(key):
                expected = "expected a layer's name and a number"
                raise InputError(f"{file}: {shown(key)} of its PEFT config: {expected}, found {shown(value)}")
        return cls(alpha, patterns, bool(config.get("use_rslora")))

    def factor(self, layer: str, rank: int, own: float | None) -> float:
        """α/r of a layer, or α/√r with rank stabilisation; `own` is the α that the file has for it, if any."""
        matching = (value for pattern, value in self.patterns.items() if re.fullmatch(rf"(.*\.)?({pattern})", layer))
        alpha = own if own is not None else next(matching, self.default)
        return (rank if alpha is None else alpha) / (math.sqrt(rank) if self.rank_stabilized else rank)


def _config(file: Path, tensors: Mapping[str, Tensor], component: str) -> dict[str, Any] | None:
    """PEFT's config of a component: from the file's header, or from the file that PEFT writes beside its own; else None."""
    if all(name.startswith(PEFT) for name in tensors):
        path = file.with_name(CONFIG)
        if not path.is_file():
            raise InputError(f"{path}: expected beside a LoRA that PEFT saved, for it has the alpha, found none")
        return _parsed(path, path.read_bytes())
    if file.suffix != ".safetensors":
        return None
    with safe_open(file, framework="pt") as opened:
        header = (opened.metadata() or {}).get(METADATA)
    if header is None:
        return None
    prefix = f"{component}."
    return {key.removeprefix(prefix): value for key, value in _parsed(file, header).items() if key.startswith(prefix)} or None


def _parsed(file: Path, text: str | bytes) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: its PEFT config is not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise InputError(f"{file}: expected an object as PEFT config, found {type(content).__name__}")
    return content


def _is_pattern(text: str) -> bool:
    try:
        return bool(re.compile(text))
    except re.error:
        return False


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
