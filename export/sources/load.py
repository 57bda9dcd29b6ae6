"""Components of a model in PyTorch, float32, on the CPU."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from engines.errors import InputError
from export.sources.component_rules import check_known
from export.sources.model_folder import Source
from export.sources.weights import Say, load_strictly

# What classes write into their configs, and compute again themselves.
_DERIVED = {"AutoencoderTiny": ("block_out_channels",)}


def load_component(source: Source, component: str, say: Say = print) -> nn.Module:
    """The component in eval mode, with every tensor of its weights and no other. `say` hears of names that were changed.

    Raises:
        InputError: config and weights do not make it.
    """
    return load_strictly(_empty(source, component), source.tensors(component), source.weights(component)[0], say)


def _empty(source: Source, component: str) -> nn.Module:
    """The module that the config describes; its parameters have shapes and no values."""
    import diffusers
    import transformers
    from accelerate import init_empty_weights

    path, name = source.path(component), source.class_name(component)
    config = {key: value for key, value in source.config(component).items() if key not in _DERIVED.get(name, ())}
    try:
        with init_empty_weights():
            if component == "text_encoder":
                return transformers.CLIPTextModel(transformers.CLIPTextConfig.from_dict(config))
            made: Any = getattr(diffusers, name)
            check_known(config, inspect.signature(made.__init__).parameters, path)
            return made.from_config(config)
    except InputError:
        raise
    except Exception as error:  # whatever a library raises for a value that it cannot use
        raise InputError(f"{path}: cannot be read as {name}'s config: {' '.join(str(error).split())[:300]}") from None
