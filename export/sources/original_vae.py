"""Autoencoders under the names of the original Stable Diffusion release, as most files that hold one alone have them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

PREFIX = "first_stage_model."
MARK = "decoder.mid.block_1."  # diffusers writes decoder.mid_block.resnets.0.


def with_diffusers_names(tensors: dict[str, Tensor], module: nn.Module, say: Callable[[str], None]) -> dict[str, Tensor]:
    """The tensors under diffusers' names, if they are an AutoencoderKL's under the original ones; else as they are.

    Those that diffusers' conversion does not know keep their names, so that a strict load reports them.
    """
    bare = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
    if type(module).__name__ != "AutoencoderKL" or not any(name.startswith(MARK) for name in bare):
        return tensors
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    config: Any = module.config
    converted: dict[str, Tensor] = convert_ldm_vae_checkpoint(dict(bare), config)
    say("read under the names of the original Stable Diffusion release")
    known = {tensor.data_ptr() for tensor in converted.values()}
    return converted | {name: tensor for name, tensor in bare.items() if tensor.data_ptr() not in known}
