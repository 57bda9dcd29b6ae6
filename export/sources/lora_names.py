"""What the names in a LoRA file say: of which component and layer, and which part of the product, each tensor is.

Three layouts are read: kohya's (`lora_unet_down_blocks_0_….lora_down.weight`, with `.alpha`), diffusers' of every age
(`unet.….attn1.processor.to_q_lora.down.weight`, `unet.….to_q.lora.down.weight`) and PEFT's (`….to_q.lora_A.weight`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from engines.errors import InputError
from engines.printable import printable, shortened

PEFT = "base_model.model."  # before every name that PEFT itself saves
_COMPONENTS = (
    ("lora_unet_", "unet"),
    ("lora_te_", "text_encoder"),
    ("lora_te1_", "text_encoder"),
    ("unet.", "unet"),
    ("text_encoder.", "text_encoder"),
)
_BARE = re.compile(r"(text_model)\.|(?:down_blocks|mid_block|up_blocks|conv_in|conv_out|time_embedding)\.")
_PART = re.compile(
    r"(?P<layer>.+?)(?:"
    r"(?P<down>\.lora_down|\.lora_A(?:\.\w+)?|\.lora\.down|\.lora_linear_layer\.down|_lora\.down)\.weight|"
    r"(?P<up>\.lora_up|\.lora_B(?:\.\w+)?|\.lora\.up|\.lora_linear_layer\.up|_lora\.up)\.weight|"
    r"(?P<alpha>\.alpha))"
)
# Part of a name → the adapter that it tells of.
_OTHERS = {
    "hada_w": "a LoHa, a Hadamard product",
    "lokr_w": "a LoKr, a Kronecker product",
    "lora_mid": "a LoCon with a Tucker decomposition",
    "dora_scale": "a DoRA, which rescales the weights",
    "lora_magnitude_vector": "a DoRA, which rescales the weights",
    "oft_": "an OFT, which rotates the weights",
    "ia3_": "an (IA)³, which scales activations",
    "lora_te2_": "a LoRA of Stable Diffusion XL",
    "text_encoder_2.": "a LoRA of Stable Diffusion XL",
    "lora_transformer_": "a LoRA of a diffusion transformer",
}


class Part(NamedTuple):
    """One tensor's place. `layer` is a module's name as the file writes it; `role` is down, up or alpha."""

    component: str
    layer: str
    role: str


class Layer(NamedTuple):
    """The names of one layer's tensors: down [r, in], up [out, r] and alpha, a number, where the file has it."""

    down: str
    up: str
    alpha: str | None


def is_lora(names: Iterable[str]) -> bool:
    """Whether these are names of a LoRA's tensors, or of another kind of adapter."""
    return any(_part(name) is not None or _other(name) for name in names)


def layers_of(file: Path, names: Iterable[str]) -> dict[str, dict[str, Layer]]:
    """Component → layer → its tensors. `file` is for messages.

    Raises:
        InputError: it is another kind of adapter, a name is of no known layout, or a layer lacks one of its two tensors.
    """
    roles: dict[tuple[str, str], dict[str, str]] = {}
    unknown = []
    for name in names:
        if (other := _other(name)) is not None:
            raise InputError(f"{file}: expected a LoRA (kohya, diffusers or PEFT layout), found {other}, in {printable(name)}")
        if (part := _part(name)) is None:
            unknown.append(name)
        else:
            roles.setdefault((part.component, part.layer), {})[part.role] = name
    unknown += [name for found in roles.values() if not {"down", "up"} <= found.keys() for name in found.values()]
    if unknown or not roles:
        raise InputError(f"{file}: expected a LoRA's pairs of tensors (kohya, diffusers or PEFT layout), found {listed(unknown)}")
    layers: dict[str, dict[str, Layer]] = {}
    for (component, layer), found in roles.items():
        layers.setdefault(component, {})[layer] = Layer(found["down"], found["up"], found.get("alpha"))
    return layers


def listed(names: list[str]) -> str:
    """A count and the first few."""
    return f"{len(names)} that fit none: {shortened(names)}" if names else "none"


def _other(name: str) -> str | None:
    return next((kind for sign, kind in _OTHERS.items() if sign in name), None)


def _part(name: str) -> Part | None:
    match = _PART.fullmatch(name.removeprefix(PEFT))
    if match is None:
        return None
    layer = match["layer"].replace(".processor", "")
    role = next(role for role in ("down", "up", "alpha") if match[role])
    for prefix, component in _COMPONENTS:
        if layer.startswith(prefix):
            return Part(component, layer.removeprefix(prefix), role)
    bare = _BARE.match(layer)
    return None if bare is None else Part("text_encoder" if bare[1] else "unet", layer, role)
