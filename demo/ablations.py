"""Guards of the demo with one part of their heads switched off.

Each is the shipped checkpoint with some weights set so that a part says the same whatever it sees; nothing is trained again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from saferedir.checkpoint import load_redirector, save_redirector
from saferedir.heads import Redirector
from saferedir.metadata import read_metadata

FULL = 30.0  # a logit whose sigmoid is 1 in float32


def nothing(heads: Redirector) -> None:
    """All is left as it is."""


def _says(layer: nn.Module, value: float) -> None:
    """Let a linear layer give `value`, whatever it sees."""
    assert isinstance(layer, nn.Linear)
    nn.init.zeros_(layer.weight)
    nn.init.constant_(layer.bias, value)


def without_mask(heads: Redirector) -> None:
    """Every token is shifted as if the mask held it responsible."""
    _says(heads.mask_predictor.predictor[3], FULL)


def without_alpha(heads: Redirector) -> None:
    """Every token is shifted by the full length of its embedding."""
    _says(heads.alpha_predictor.net[2], FULL)


def random_direction(heads: Redirector) -> None:
    """The shift's direction is still a function of what the heads see, but a random one."""
    heads.delta_head.up.weight.copy_(torch.randn(heads.delta_head.up.weight.shape, generator=torch.Generator().manual_seed(0)))


def _without_columns(layer: nn.Module, columns: slice) -> None:
    """Let a linear layer not see some of its inputs."""
    assert isinstance(layer, nn.Linear)
    weight: Tensor = layer.weight
    weight[:, columns] = 0


def classifier_without_prompt(heads: Redirector) -> None:
    """The classifier sees latents and timestep alone."""
    _without_columns(heads.classifier[0], slice(heads.config.joint_features, None))


def classifier_without_latents(heads: Redirector) -> None:
    """The classifier sees the prompt and the timestep alone; where it looks in the prompt still depends on the latents."""
    _without_columns(heads.classifier[0], slice(0, heads.config.latent_features))


ABLATIONS: dict[str, tuple[Callable[[Redirector], None], tuple[str, ...]]] = {  # the change, and options of the build
    "mask again": (nothing, ("--mask-again",)),
    "without mask": (without_mask, ()),
    "alpha 1": (without_alpha, ()),
    "random direction": (random_direction, ()),
    "classifier without prompt": (classifier_without_prompt, ()),
    "classifier without latents": (classifier_without_latents, ()),
}


@torch.no_grad()
def write_ablated(checkpoint: Path, change: Callable[[Redirector], None], output: Path) -> None:
    """The checkpoint with a part switched off; without canaries, which it could not pass."""
    heads, metadata = load_redirector(checkpoint), read_metadata(checkpoint)
    change(heads)
    save_redirector(heads, output, replace(metadata, canaries=[]))
