"""A file with a whole model under the names of the original implementation: what is in it, read in parts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engines.errors import InputError
from engines.git_lfs import lfs_problem
from engines.printable import shortened

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
PREFIXES = {"unet": "model.diffusion_model.", "vae": "first_stage_model.", "text_encoder": "cond_stage_model."}
EMA = "model_ema."
CROSS_ATTENTION = "attn2.to_k.weight"
# Buffers of the noise schedule and of the training's loss; that a schedule fits is checked by ᾱ.
_BUFFERS = (
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "betas",
    "log_one_minus_alphas_cumprod",
    "logvar",
    "lvlb_weights",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "posterior_variance",
    "scale_factor",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
)


class OriginalFile:
    """The tensors of a file: of .safetensors those that are asked for are read, of others all are, once.

    Raises:
        InputError: it cannot be read as weights.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix not in SUFFIXES:
            raise InputError(f"{path}: expected a file ending in one of {', '.join(SUFFIXES)}, found {path.suffix!r}")
        if (problem := lfs_problem(path)) is not None:
            raise InputError(problem)
        self.path = path

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name → shape of every tensor."""
        if self._content is not None:
            return {name: tuple(tensor.shape) for name, tensor in self._content.items()}
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, framework="numpy") as opened:
                return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise InputError(f"{self.path}: cannot be read as .safetensors weights: {error}") from None

    @cached_property
    def _content(self) -> Mapping[str, Any] | None:
        """All of a pickled file. None for .safetensors."""
        if self.path.suffix == ".safetensors":
            return None
        return trained_tensors(self.path)

    @property
    def prompt_width(self) -> int:
        """Of the first cross-attention; `check` sees to it that there is one."""
        return next(shape[1] for name, shape in self.shapes.items() if name.endswith(CROSS_ATTENTION) and len(shape) == 2)

    @property
    def ema(self) -> int:
        """How many tensors are moving averages of the training, which nothing reads."""
        return sum(name.startswith(EMA) for name in self.shapes)

    def check(self, components: Collection[str]) -> None:
        """Raise InputError unless it has these components of a model, and nothing that is of no component."""
        names = list(self.shapes)
        for component in components:
            if not any(name.startswith(PREFIXES[component]) for name in names):
                expected = f"a whole model of the Stable Diffusion 1.x/2.x family, with tensors {PREFIXES[component]}…"
                raise InputError(f"{self.path}: expected {expected}, found no {component}{_advice(component, names)}")
        if not any(len(shape) == 2 and name.endswith(CROSS_ATTENTION) for name, shape in self.shapes.items()):
            raise InputError(f"{self.path}: expected a UNet with cross-attention, found no …{CROSS_ATTENTION}")
        known = (*PREFIXES.values(), EMA)
        if unknown := [name for name in names if not name.startswith(known) and name not in _BUFFERS]:
            raise InputError(f"{self.path}: expected the tensors of a model, found {len(unknown)} others: {shortened(unknown)}")

    def tensors(self, component: str) -> dict[str, Tensor]:
        """A component's, under the names of the file."""
        prefix = PREFIXES[component]
        if self._content is not None:
            return {name: tensor for name, tensor in self._content.items() if name.startswith(prefix)}
        from safetensors import safe_open

        with safe_open(self.path, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in self.shapes if name.startswith(prefix)}

    def array(self, name: str) -> np.ndarray | None:
        """One tensor in float64; None where the file lacks it."""
        if name not in self.shapes:
            return None
        if self._content is not None:
            return np.asarray(self._content[name].double())
        from safetensors import safe_open

        with safe_open(self.path, framework="pt") as opened:
            return np.asarray(opened.get_tensor(name).double())


def trained_tensors(path: Path) -> Mapping[str, Tensor]:
    """All tensors of a file, or of its `state_dict`, where a training saved it beside things of its own.

    Raises:
        InputError: it cannot be read as weights.
    """
    from saferedir.checkpoint import read_content, state_dict

    content = read_content(path)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    return state_dict(path, content)


def _advice(missing: str, names: list[str]) -> str:
    """What a file seems to be that is no whole model, and where it goes."""
    if missing == "vae":  # asked for last: the rest is there
        return "; pass one as --vae"
    if any("lora" in name for name in names):
        return "; it is a LoRA: pass it as --lora, and its model as --model"
    if any(name.startswith("conditioner.") for name in names):
        return "; it is of Stable Diffusion XL"
    if any(name.startswith(("down_blocks.", "input_blocks.")) for name in names):
        return "; it is a UNet alone: pass it as --unet-weights, and its model as --model"
    return ""
