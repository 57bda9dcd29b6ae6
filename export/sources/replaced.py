"""Weights that take the place of a component's own, all or some of them, in the layouts in which unlearned models are published."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engines.errors import InputError
from engines.printable import shortened
from export.sources.lora import merge_lora
from export.sources.lora_names import is_lora, layers_of
from export.sources.original_file import PREFIXES
from export.sources.original_names import in_full, to_diffusers
from export.sources.weights import WRAPPERS, Say, as_float32, differences, likely_cause, renamed
from saferedir.checkpoint import read_content, state_dict

CROSS_ATTENTION = ".attn2."


def read_replacement(file: Path, component: str) -> Mapping[str, Tensor]:
    """The tensors of a file: of a state dict, or of the one that is in it as `state_dict` or under the component's name.

    Raises:
        InputError: it cannot be read as such, or has more than this component.
    """
    content = read_content(file)
    if isinstance(content, Mapping):
        if any(isinstance(part, Mapping) and {"down.weight", "up.weight"} <= part.keys() for part in content.values()):
            raise InputError(
                f"{file}: expected weights of the {component}, found erasers as Receler's: networks of their own after its layers, "
                "with an activation between, which no weights can stand for"
            )
        if isinstance(content.get("state_dict"), Mapping):  # beside it is the training's bookkeeping
            content = content["state_dict"]
        elif isinstance(content.get(component), Mapping):
            if others := [str(name) for name, part in content.items() if name != component and part]:
                raise InputError(f"{file}: expected weights of the {component} alone, found {shortened(others)} too")
            content = content[component]
    return state_dict(file, content)


@torch.no_grad()
def replace_weights(module: nn.Module, component: str, file: Path, say: Say) -> None:
    """Give a module the tensors of a file, in float32, and say how many. A low-rank adapter in it is merged instead.

    Raises:
        InputError: a tensor fits none of the module's by name and shape, or the file has none.
    """
    tensors = read_replacement(file, component)
    if is_lora(tensors):
        if more := layers_of(file, tensors).keys() - {component}:
            found = f"found {', '.join(more)} too; pass it as --lora"
            raise InputError(f"{file}: expected an adapter of the {component} alone, {found}")
        say(f"an adapter, merged into {merge_lora(module, component, file, 1.0)} layers of {component}")
        return
    expected = module.state_dict()
    tensors = renamed(_with_diffusers_names(module, component, file, tensors), expected, say, (*WRAPPERS, f"{component}."))
    if not tensors or (problems := differences(tensors, expected, partial=True)):
        found = "; ".join(problems) if tensors else "no tensors"
        raise InputError(f"{file}: cannot replace weights of {type(module).__name__}: {found}; {likely_cause(tensors, expected)}")
    given = {name: as_float32(file, name, tensor) for name, tensor in tensors.items()}
    others = sum(not torch.equal(tensor, expected[name]) for name, tensor in given.items())
    module.load_state_dict(given, strict=False, assign=True)
    where = ", all of cross-attention" if all(CROSS_ATTENTION in name for name in given) else ""
    say(f"{len(given)} of {len(expected)} tensors of {component} replaced{where}; {others} have other values than the model's")


def _with_diffusers_names(module: nn.Module, component: str, file: Path, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Brings the original implementation's names to diffusers'. Raises InputError for a whole model."""
    if (before := in_full(component, tensors)) is None:
        return tensors
    if not before and not all(name.startswith(PREFIXES[component]) for name in tensors):
        raise InputError(f"{file}: expected weights of the {component} alone, found a whole model; pass it as --model")
    config: Any = module.config
    values = config if isinstance(config, Mapping) else config.to_dict()  # diffusers' or transformers'
    return to_diffusers(component, {before + name: tensor for name, tensor in tensors.items()}, values, file)
