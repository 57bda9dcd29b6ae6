"""What the exported networks honour of a model's configs: every other value that changes the computation is refused by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from engines.errors import InputError
from engines.networks import LATENT_CHANNELS, TOKENS

Config = Mapping[str, Any]

FAMILY = "(text to image, Stable Diffusion 1.x/2.x family)"
# Component → library, and the classes that model_index.json may name.
CLASSES = {
    "text_encoder": ("transformers", ("CLIPTextModel",)),
    "unet": ("diffusers", ("UNet2DConditionModel",)),
    "vae": ("diffusers", ("AutoencoderKL", "AutoencoderTiny")),
    "tokenizer": ("transformers", ("CLIPTokenizer", "CLIPTokenizerFast")),
}
# Of a model_index.json: the scheduler is judged apart, and the others take no part in text to image.
_OTHER_COMPONENTS = ("scheduler", "safety_checker", "feature_extractor", "image_encoder")
# Training's bookkeeping, which diffusers' EMAModel saves among a UNet's options.
_BOOKKEEPING = {"decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup"}


class Rule(NamedTuple):
    """The one value of a key that is honoured; `default` is what the key's absence means. `of` is a component or a class."""

    of: str
    key: str
    expected: Any
    default: Any = None


RULES = (
    Rule("text_encoder", "max_position_embeddings", TOKENS, TOKENS),
    Rule("text_encoder", "use_attention_mask", False, False),
    Rule("text_encoder", "quantization_config", None),
    Rule("unet", "in_channels", LATENT_CHANNELS, LATENT_CHANNELS),
    Rule("unet", "out_channels", LATENT_CHANNELS, LATENT_CHANNELS),
    Rule("unet", "addition_embed_type", None),
    Rule("unet", "class_embed_type", None),
    Rule("unet", "num_class_embeds", None),
    Rule("unet", "encoder_hid_dim", None),
    Rule("unet", "encoder_hid_dim_type", None),
    Rule("unet", "attention_type", "default", "default"),
    Rule("unet", "quantization_config", None),
    Rule("vae", "latent_channels", LATENT_CHANNELS, LATENT_CHANNELS),
    Rule("vae", "in_channels", 3, 3),
    Rule("vae", "out_channels", 3, 3),
    Rule("vae", "quantization_config", None),
    Rule("AutoencoderKL", "shift_factor", None),
    Rule("AutoencoderKL", "latents_mean", None),
    Rule("AutoencoderKL", "latents_std", None),
    Rule("AutoencoderTiny", "shift_factor", 0.0, 0.0),
    Rule("AutoencoderTiny", "upsampling_scaling_factor", 2, 2),
)


def check_rules(component: str, name: str, config: Config, path: Path) -> None:
    """Raise InputError for a value that the exported networks would not honour. `name` is the class, `path` the config's."""
    for _, key, expected, default in (rule for rule in RULES if rule.of in (component, name)):
        if (value := config.get(key, default)) != expected:
            raise InputError(f"{path}: {key}: expected {expected!r} {FAMILY}, found {value!r}")


def check_class(component: str, config: Config, path: Path) -> None:
    """Raise InputError where a config says that it is of another class."""
    expected = CLASSES[component][1]
    key, found = "_class_name", config.get("_class_name")
    if component == "text_encoder":
        key, expected, found = "model_type", ("clip_text_model",), config.get("model_type")
    elif component == "tokenizer":
        key, found = "tokenizer_class", config.get("tokenizer_class")
    if found is not None and str(found).removeprefix("Flax") not in expected:
        raise InputError(f"{path}: {key}: expected {' or '.join(expected)} {FAMILY}, found {found!r}")


def check_index(index: Config, path: Path) -> None:
    """Raise InputError where a model_index.json names other components, or components of other classes."""
    for component, value in index.items():
        if component.startswith("_") or not isinstance(value, list):
            continue
        if len(value) != 2:
            raise InputError(f"{path}: {component}: expected a library and a class, found {value!r}")
        if component in CLASSES:
            library, classes = CLASSES[component]
            if value[0] != library or value[1] not in classes:
                expected, found = f"{' or '.join(classes)} of {library}", f"{value[1]!r} of {value[0]!r}"
                raise InputError(f"{path}: {component}: expected {expected} {FAMILY}, found {found}")
        elif component not in _OTHER_COMPONENTS and value[1] is not None:
            raise InputError(f"{path}: expected no component {component} {FAMILY}, found {value[1]!r}")


def check_known(config: Config, known: Iterable[str], path: Path) -> None:
    """Raise InputError for options that the installed library does not know and that are not off."""
    ours = {*known, *_BOOKKEEPING}
    if unknown := [key for key, value in config.items() if value and key not in ours and not key.startswith("_")]:
        raise InputError(
            f"{path}: expected options that the installed diffusers knows, found {', '.join(sorted(unknown)[:5])}; "
            "a newer diffusers may know them"
        )


def whole(config: Config, key: str, path: Path) -> int:
    """A whole number above 0, and not absurd."""
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 31:
        raise InputError(f"{path}: {key}: expected a whole number above 0, found {value!r}")
    return value


def widths(config: Config, key: str, path: Path) -> list[int]:
    """One width for each level of a network."""
    value = config.get(key)
    if not isinstance(value, list) or not value or any(type(width) is not int or not 0 < width < 1 << 31 for width in value):
        raise InputError(f"{path}: {key}: expected a list of widths, found {value!r}")
    return value
