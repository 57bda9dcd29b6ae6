"""Reads and writes SafeRedir checkpoints: plain state dicts, matched strictly by name and shape."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from engines.errors import InputError
from saferedir.heads import Redirector, RedirectorConfig

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")


class CheckpointError(InputError):
    """A checkpoint cannot be used; the text lists everything that is wrong with it."""


def load_redirector(path: str | Path) -> Redirector:
    """Load a checkpoint into heads of its own widths, float32, in eval mode.

    Pickled files are read with `weights_only=True`, so nothing in them is executed.

    Raises:
        CheckpointError: no such file, not a state dict, or tensors missing, extra, misshaped or not finite.
    """
    path = Path(path)
    tensors = _read(path)
    model = Redirector(RedirectorConfig.from_shapes({name: tuple(tensor.shape) for name, tensor in tensors.items()}))
    expected = model.state_dict()
    problems = [f"missing {name} {list(expected[name].shape)}" for name in expected if name not in tensors]
    problems += [f"unexpected {name} {list(tensors[name].shape)}" for name in tensors if name not in expected]
    for name, tensor in tensors.items():
        if name in expected and tensor.shape != expected[name].shape:
            problems.append(f"{name}: expected {list(expected[name].shape)}, found {list(tensor.shape)}")
        elif not torch.isfinite(tensor).all():
            problems.append(f"{name}: holds NaN or infinity")
    if problems:
        raise CheckpointError(f"{path}: not a SafeRedir checkpoint: " + "; ".join(problems))
    model.load_state_dict(tensors)
    return model.eval()


def save_redirector(model: Redirector, path: str | Path) -> None:
    """Write the state dict as .safetensors or .pt, atomically."""
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    state = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, temporary)
    else:
        torch.save(state, temporary)
    os.replace(temporary, path)


def _read(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected a SafeRedir checkpoint ({', '.join(SUFFIXES)})")
    if path.suffix not in SUFFIXES:
        raise CheckpointError(f"{path}: expected a file ending in one of {', '.join(SUFFIXES)}, found {path.suffix!r}")
    try:
        content: Any = (
            safetensors.torch.load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # each reader has its own classes for a file that it cannot read
        raise CheckpointError(f"{path}: cannot be read as {path.suffix} weights: {error}") from None
    if not isinstance(content, Mapping) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise CheckpointError(f"{path}: expected a state dict (names to tensors), found {type(content).__name__}")
    return content
