"""Which network computes in which precision, and what the option's names are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engines.errors import InputError
from engines.networks import ALWAYS_FLOAT32, NETWORKS, OPSET

SHORT_NAMES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
# 22 is the first whose Conv takes bfloat16. Of the operators exported here, only the accepted dtypes differ between the two.
OPSETS = {"float32": OPSET, "float16": OPSET, "bfloat16": 22}


def precision_name(text: str) -> str:
    """float32, float16 or bfloat16 for that name or its short form.

    Raises:
        InputError: neither.
    """
    name = SHORT_NAMES.get(text, text)
    if name not in OPSETS:
        raise InputError(f"precision: expected one of {', '.join([*OPSETS, *SHORT_NAMES])}, found {text!r}")
    return name


def network_precisions(requested: str, unet_config: Mapping[str, Any]) -> dict[str, str]:
    """The precision of each network's file under a requested one.

    Some are always float32 (`engines.networks.ALWAYS_FLOAT32`). When half is asked for, the decoder is bfloat16: autoencoders are
    known whose activations exceed float16, which ends in black images. So is a UNet whose config sets `upcast_attention`, as
    Stable Diffusion 2.1's does because its attention logits exceed float16. The text encoder is float16 under bfloat16, too: its
    range is small, and bfloat16 would cost it three bits.
    """
    if requested == "float32":
        return dict.fromkeys(NETWORKS, "float32")
    unet = "bfloat16" if unet_config.get("upcast_attention") else requested
    half = {"text_encoder": "float16", "unet": unet, "vae_decoder": "bfloat16"}
    return {network: "float32" if network in ALWAYS_FLOAT32 else half[network] for network in NETWORKS}
