"""A component's weights: read as they are, matched strictly by name and shape, and never replaced by random ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engines.errors import InputError
from engines.printable import shortened
from saferedir.checkpoint import DTYPES, read_tensors

# What wrappers of PyTorch put before every name, and what some versions of transformers leave out.
WRAPPERS = ("module.", "_orig_mod.")
TEXT_MODEL = "text_model."
# Attention of the first releases' autoencoders → what diffusers calls it since.
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_NAME = re.compile(r"(.*attentions\.\d+\.)(" + "|".join(_OLD_ATTENTION) + r")(\.weight|\.bias)")
_CAUSES = (
    (".lora", "these are LoRA weights, which are no model of their own; merge them into one first"),
    ("model.diffusion_model.", "this is a whole model in a single file; pass it as --model"),
    ("vision_model.", "this is a whole CLIP model; save its text model alone"),
)

Say = Callable[[str], None]


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], file: Path, say: Say) -> nn.Module:
    """Give a module these tensors in float32, all of them and no others. `say` hears of names that were changed.

    Its parameters may be on the meta device; `file` is the tensors', for messages.

    Raises:
        InputError: tensors are missing, surplus, misshaped, not floating point or not finite.
    """
    name, expected = type(module).__name__, module.state_dict()
    tensors = renamed(tensors, expected, lambda change: say(f"{file}: {change}"))
    problems = differences(tensors, expected)
    if problems:
        raise InputError(f"{file}: cannot be loaded as {name}: {'; '.join(problems)}; {likely_cause(tensors, expected)}")
    module.load_state_dict({key: as_float32(file, key, tensor) for key, tensor in tensors.items()}, assign=True)
    return module.eval()


def read_shards(files: Sequence[Path]) -> dict[str, Tensor]:
    """The tensors of one file of weights, or of the shards of one. Raises InputError where they cannot be read."""
    tensors: dict[str, Tensor] = {}
    for file in files:
        content = read_tensors(file)
        if twice := sorted(set(content) & set(tensors)):
            raise InputError(f"{file}: expected tensors of its own, found some of another shard: {shortened(twice)}")
        tensors |= content
    return tensors


def renamed(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Any], say: Say, prefixes: Sequence[str] = WRAPPERS
) -> dict[str, Tensor]:
    """The tensors under the names that the module expects, where one change explains them all; `prefixes` may be before all."""
    tensors = {name: tensor for name, tensor in tensors.items() if name in expected or not _position_ids(name, tensor)}
    for prefix in (*prefixes, *prefixes):
        if all(name.startswith(prefix) for name in tensors) and not all(name.startswith(prefix) for name in expected):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
            say(f"read without the prefix {prefix!r} of its names")
    found_has, expected_has = (any(name.startswith(TEXT_MODEL) for name in names) for names in (tensors, expected))
    if expected_has and not found_has:
        tensors = {TEXT_MODEL + name: tensor for name, tensor in tensors.items()}
        say(f"read with the prefix {TEXT_MODEL!r} before its names")
    elif found_has and not expected_has and all(name.startswith(TEXT_MODEL) for name in tensors):
        tensors = {name.removeprefix(TEXT_MODEL): tensor for name, tensor in tensors.items()}
        say(f"read without the prefix {TEXT_MODEL!r} of its names")
    changed = {name if name in expected else _OLD_NAME.sub(_new_name, name): tensor for name, tensor in tensors.items()}
    return changed if len(changed) == len(tensors) else tensors


def _new_name(match: re.Match[str]) -> str:
    return match[1] + _OLD_ATTENTION[match[2]] + match[3]


def _position_ids(name: str, tensor: Tensor) -> bool:
    """0, 1, 2 …, which older versions of transformers stored and newer ones compute."""
    return name.endswith("embeddings.position_ids") and torch.equal(
        tensor.flatten().to(torch.float64), torch.arange(tensor.numel(), dtype=torch.float64)
    )


def differences(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], partial: bool = False) -> list[str]:
    """How the tensors differ from those of the module, a count and the first few of each kind; `partial` ones may be fewer."""
    lists = {
        "missing": [name for name in expected if name not in tensors and not partial],
        "surplus": [name for name in tensors if name not in expected],
        "misshaped": [
            f"{name} (expected {list(expected[name].shape)}, found {list(tensor.shape)})"
            for name, tensor in tensors.items()
            if name in expected and tensor.shape != expected[name].shape
        ],
    }
    return [f"{len(names)} of {len(expected)} tensors {kind}: {shortened(names)}" for kind, names in lists.items() if names]


def likely_cause(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """Why tensors do not fit a module, in words."""
    for part, cause in _CAUSES:
        if any(part in name for name in tensors):
            return cause
    matching = len(set(tensors) & set(expected))
    if not matching:
        return "no name fits: the file is of another component or in another format"
    if matching == len(tensors) and matching < len(expected):
        return "the file is incomplete, or config.json describes a larger model"
    return "config.json is not of these weights, or they were saved under other names"


def as_float32(file: Path, name: str, tensor: Tensor) -> Tensor:
    """A tensor in float32. Raises InputError for one that is not floating point or not finite; `file` and `name` are for it."""
    if tensor.dtype not in DTYPES:
        kinds = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        raise InputError(f"{file}: {name}: expected {kinds}, found {str(tensor.dtype).removeprefix('torch.')}")
    converted = tensor.to(torch.float32)
    if not torch.isfinite(converted).all():
        raise InputError(f"{file}: {name}: expected finite values, found NaN, infinity or what float32 cannot hold")
    return converted.contiguous()
