"""A guard of random weights, and its engine run once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from engines.backends.contract import run_once
from engines.backends.registry import open_backend
from engines.networks import NETWORKS
from saferedir.heads import Redirector, RedirectorConfig

# Every width is another, so that no two can be mistaken for each other.
SMALL = RedirectorConfig(
    embed_dim=32,
    encoder_widths=(8, 16, 24),
    latent_features=40,
    timestep_frequencies=12,
    timestep_features=20,
    classifier_width=28,
    shift_width=36,
    rank=3,
    mask_width=44,
    alpha_width=52,
)


def random_heads(config: RedirectorConfig) -> Redirector:
    """Heads whose BatchNorms and biases all do something."""
    torch.manual_seed(0)
    heads = Redirector(config)
    with torch.no_grad():
        for name, tensor in heads.state_dict().items():
            if name.endswith(("running_mean", "bias")):
                tensor.normal_(0, 0.3)
            elif name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
    return heads.eval()


def run_guard(path: Path, inputs: dict[str, torch.Tensor], backend_name: str = "onnxruntime") -> list[np.ndarray]:
    """Outputs of a guard's ONNX file."""
    images, _, height, width = inputs["sample"].shape
    concepts, rows, _, embed_dim = inputs["shifts"].shape
    backend, arrays = open_backend(backend_name), {name: tensor.numpy() for name, tensor in inputs.items()}
    sizes = {"B": images, "CB": rows, "K": concepts, "H": height, "W": width, "D": embed_dim}
    return list(run_once(backend.load(path, NETWORKS["guard"]), backend, arrays, sizes).values())
