"""Reads and writes SafeRedir checkpoints: plain state dicts, matched strictly by name and shape."""

from __future__ import annotations

import dataclasses
import io
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from engines.errors import InputError
from engines.git_lfs import lfs_problem
from engines.networks import LATENT_CHANNELS, TOKENS
from engines.printable import shortened
from engines.store.atomic import replacing
from saferedir.heads import ATTENTION_HEADS, Redirector, RedirectorConfig
from saferedir.metadata import KEY, Metadata

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
PROBES = 16  # random inputs that the heads must tell apart
REACTION = 1e-5  # least difference between outputs, of the largest; rounding makes 1e-6


class CheckpointError(InputError):
    """A checkpoint cannot be used; the text says what is wrong with it."""


def load_redirector(path: str | Path) -> Redirector:
    """Load a checkpoint into heads of its own widths, float32, in eval mode.

    Pickled files are read with `weights_only=True`, so nothing in them is executed.

    Raises:
        CheckpointError: no such file, not a state dict, tensors missing, extra, misshaped, of another dtype or not finite, or
            heads that give the same for any input.
    """
    path = Path(path)
    tensors = _read(path)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    with torch.device("meta"):  # shapes alone, whatever they are
        expected = _of_shapes(path, shapes).state_dict()
    problems = [f"missing {name} {list(expected[name].shape)}" for name in expected if name not in tensors]
    problems += [f"unexpected {name} {list(shape)}" for name, shape in shapes.items() if name not in expected]
    problems += [problem for name in expected if name in tensors and (problem := _wrong_with(name, tensors[name], expected[name]))]
    if problems:
        raise CheckpointError(f"{path}: not a SafeRedir checkpoint: {shortened(problems)}")
    model = _of_shapes(path, shapes)
    model.load_state_dict({name: tensor.to(expected[name].dtype) for name, tensor in tensors.items()})
    _check_reaction(path, model.eval())
    return model


def save_redirector(model: Redirector, path: str | Path, metadata: Metadata | None = None) -> None:
    """Write the state dict as .safetensors or .pt, atomically.

    Raises:
        InputError: metadata was given for a .pt file, which has no place for it.
    """
    path = Path(path)
    state = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    content = io.BytesIO()  # the libraries have errors of their own for a file that they cannot write
    if path.suffix == ".safetensors":
        content.write(safetensors.torch.save(state, None if metadata is None else {KEY: metadata.to_json()}))
    elif metadata is not None:
        raise InputError(f"{path}: expected a file ending in .safetensors, which can carry metadata, found {path.suffix!r}")
    else:
        torch.save(state, content)
    with replacing(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def _of_shapes(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Redirector:
    config = RedirectorConfig.from_shapes(shapes)
    for field, width in dataclasses.asdict(config).items():
        if min(width if isinstance(width, tuple) else (width,)) < 1:
            raise CheckpointError(f"{path}: not a SafeRedir checkpoint: {field}: expected at least 1, found {width}")
    if config.embed_dim % ATTENTION_HEADS:
        raise CheckpointError(
            f"{path}: not a SafeRedir checkpoint: pos_embed: expected a prompt width that {ATTENTION_HEADS} divides, "
            f"found {config.embed_dim}"
        )
    if config.latent_channels != LATENT_CHANNELS:
        raise CheckpointError(
            f"{path}: latent_encoder.0.conv.0.weight: expected {LATENT_CHANNELS} latent channels, found {config.latent_channels}"
        )
    return Redirector(config)


def _wrong_with(name: str, found: Tensor, expected: Tensor) -> str | None:
    if found.shape != expected.shape:
        return f"{name}: expected {list(expected.shape)}, found {list(found.shape)}"
    if found.layout != torch.strided or found.is_quantized or found.is_meta:
        return f"{name}: expected a plain tensor, found one that is {'quantized' if found.is_quantized else 'sparse or empty'}"
    if found.numel() * found.element_size() > found.untyped_storage().nbytes():
        return f"{name}: expected {found.numel()} values, found fewer in the file"
    if expected.is_floating_point() and found.dtype not in DTYPES:
        return f"{name}: expected {', '.join(map(_dtype_name, DTYPES))}, found {_dtype_name(found.dtype)}"
    if found.is_complex() or not torch.isfinite(found.to(torch.float32)).all():
        return f"{name}: holds NaN, infinity or what float32 cannot hold"
    return None


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@torch.no_grad()
def _check_reaction(path: Path, model: Redirector) -> None:
    """Raise CheckpointError for heads that classify or shift every input alike: such a guard guards nothing."""
    draw = torch.Generator().manual_seed(0)
    scale = torch.logspace(-1, 1, PROBES)  # from faint to far stronger than latents and embeddings are
    sample = torch.randn(PROBES, LATENT_CHANNELS, 8, 8, generator=draw) * scale.reshape(-1, 1, 1, 1)
    embeds = torch.randn(PROBES, TOKENS, model.config.embed_dim, generator=draw) * scale.flip(0).reshape(-1, 1, 1)
    try:
        logits, delta, _, alpha = model(sample, torch.linspace(0, 999, PROBES), embeds)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: its heads cannot be run: {' '.join(str(error).split())}") from None
    outputs = {"the classifier's logits": logits[:, 1] - logits[:, 0], "the shift": alpha * delta}
    for name, output in outputs.items():
        if not torch.isfinite(output).all():
            raise CheckpointError(f"{path}: {name}: expected finite values for {PROBES} random inputs, found NaN or infinity")
        if (output.amax(0) - output.amin(0)).max() <= REACTION * output.abs().max():
            raise CheckpointError(
                f"{path}: {name}: expected values that follow the input, found the same for {PROBES} random inputs; such a guard "
                "guards nothing: is it trained, and saved after its training?"
            )


def _read(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected a SafeRedir checkpoint ({', '.join(SUFFIXES)})")
    if path.suffix not in SUFFIXES:
        raise CheckpointError(f"{path}: expected a file ending in one of {', '.join(SUFFIXES)}, found {path.suffix!r}")
    try:
        return read_tensors(path)
    except InputError as error:
        raise CheckpointError(str(error)) from None


def read_tensors(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a .safetensors file, or of a state dict that torch.save wrote; nothing in the file is executed.

    Raises:
        InputError: it cannot be read as such, or holds something else.
    """
    return state_dict(path, read_content(path))


def state_dict(path: Path, content: object) -> Mapping[str, Tensor]:
    """The content of a file, if it is names to tensors; InputError if not."""
    if not isinstance(content, Mapping) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise InputError(f"{path}: expected a state dict (names to tensors), found {type(content).__name__}")
    if odd := [name for name in content if not isinstance(name, str)]:
        raise InputError(f"{path}: expected a state dict (names to tensors), found the name {odd[0]!r}")
    return content


def read_content(path: Path) -> Any:
    """What a .safetensors file holds, or whatever of plain types torch.save wrote; nothing in the file is executed.

    Raises:
        InputError: it cannot be read as such.
    """
    if (problem := lfs_problem(path)) is not None:
        raise InputError(problem)
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # the library's own text advises to execute what is in the file
        raise InputError(
            f"{path}: cannot be read as {path.suffix} weights: expected a state dict, found other pickled objects or no pickle; "
            "objects are not loaded, for that executes code. Where the file is trusted, save the state dict alone: "
            "torch.save(model.state_dict(), FILE)"
        ) from None
    except Exception as error:  # each reader has its own classes for a file that it cannot read
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: cannot be read as {path.suffix} weights: {reason}") from None
