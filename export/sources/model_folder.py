"""The model to export: a diffusers folder or hub id of the Stable Diffusion 1.x/2.x family. Reads configs; loads weights late."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from engines.errors import InputError
from engines.geometry import Geometry
from engines.networks import LATENT_CHANNELS, TOKENS

COMPONENTS = {"text_encoder": "CLIPTextModel", "unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
WEIGHTS = tuple(
    f"{stem}{variant}.{suffix}"
    for suffix in ("safetensors", "bin")
    for variant in ("", ".fp16")
    for stem in ("model", "diffusion_pytorch_model", "pytorch_model")
)
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


@dataclass(frozen=True)
class Source:
    """A model on disk. `name` is what the user called it."""

    name: str
    folder: Path

    @classmethod
    def locate(cls, name: str) -> Source:
        """A folder, or a hub id, from the local cache or downloaded.

        Raises:
            InputError: neither is there, or it is not of the Stable Diffusion 1.x/2.x family.
        """
        folder = Path(name)
        if not folder.is_dir():
            folder = _download(name)
        source = cls(name, folder)
        source._check()
        return source

    def config(self, component: str, file: str = "config.json") -> dict[str, Any]:
        """A component's parsed config."""
        path = self.folder / component / file
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{path}: expected in a diffusers model folder, cannot be read ({error.strerror})") from None
        except ValueError as error:
            raise InputError(f"{path}: not valid JSON ({error})") from None

    @cached_property
    def scheduler(self) -> dict[str, Any]:
        return self.config("scheduler", "scheduler_config.json")

    @cached_property
    def geometry(self) -> Geometry:
        factor = 2 ** (len(self.config("vae")["block_out_channels"]) - 1)
        unet = self.config("unet")
        size = unet.get("sample_size") or 64
        height, width = (side * factor for side in (size if isinstance(size, list) else (size, size)))
        return Geometry(
            embed_dim=self.config("text_encoder")["hidden_size"],
            scale_factor=factor,
            size_multiple=factor * 2 ** (len(unet["block_out_channels"]) - 1),
            default_height=height,
            default_width=width,
        )

    def weights(self, component: str) -> Path:
        """The weight file that will be read: safetensors before .bin, full precision before float16."""
        for name in WEIGHTS:
            if (path := self.folder / component / name).is_file():
                return path
        raise InputError(f"{self.folder / component}: expected one of {', '.join(WEIGHTS)}, found none")

    def files(self, component: str) -> list[Path]:
        """Every file that decides what is exported of a component."""
        if component == "tokenizer":
            return [path for name in TOKENIZER_FILES if (path := self.folder / component / name).is_file()]
        return [self.folder / component / "config.json", self.weights(component)]

    def load(self, component: str) -> Any:
        """The component in float32 on the CPU, or the CLIPTokenizer."""
        import diffusers
        import torch
        import transformers

        if component == "tokenizer":
            return transformers.CLIPTokenizer.from_pretrained(self.folder / component)
        weights, name = self.weights(component), COMPONENTS[component]
        loader = getattr(diffusers, name, None) or getattr(transformers, name)
        dtype = {"dtype" if name == "CLIPTextModel" else "torch_dtype": torch.float32}
        try:
            return loader.from_pretrained(
                self.folder / component,
                variant="fp16" if ".fp16." in weights.name else None,
                use_safetensors=weights.suffix == ".safetensors",
                local_files_only=True,
                **dtype,
            ).eval()
        except Exception as error:  # diffusers, transformers, safetensors and torch each raise their own
            raise InputError(f"{weights}: cannot be loaded as {name}: {error}") from error

    def _check(self) -> None:
        text, unet, vae = (self.config(component) for component in COMPONENTS)
        width = unet.get("cross_attention_dim")
        expectations = (
            ("text_encoder", "max_position_embeddings", text.get("max_position_embeddings", TOKENS), TOKENS),
            ("unet", "in_channels", unet.get("in_channels"), LATENT_CHANNELS),
            ("unet", "out_channels", unet.get("out_channels"), LATENT_CHANNELS),
            ("unet", "cross_attention_dim", width, text.get("hidden_size")),
            ("unet", "addition_embed_type", unet.get("addition_embed_type"), None),
            ("unet", "class_embed_type", unet.get("class_embed_type"), None),
            ("vae", "latent_channels", vae.get("latent_channels"), LATENT_CHANNELS),
            ("vae", "shift_factor", vae.get("shift_factor"), None),
        )
        for component, key, value, expected in expectations:
            if value != expected:
                raise InputError(
                    f"{self.folder / component / 'config.json'}: {key}: expected {expected!r} (text to image, "
                    f"Stable Diffusion 1.x/2.x family), found {value!r}"
                )
        for file in TOKENIZER_FILES[:2]:
            if not (self.folder / "tokenizer" / file).is_file():
                raise InputError(f"{self.folder / 'tokenizer' / file}: expected a CLIP tokenizer's {file}, found none")


def _download(name: str) -> Path:
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise InputError(f"model {name!r}: no such folder, and not a hub id (owner/name)")
    from huggingface_hub import snapshot_download

    patterns = ["*/config.json", "scheduler/*", *(f"tokenizer/{file}" for file in TOKENIZER_FILES)]
    patterns += [f"{component}/{file}" for component in COMPONENTS for file in WEIGHTS if file.endswith("safetensors")]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # network, authentication and cache errors of several libraries
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"model {name!r}: no such folder, not in the local cache, and it cannot be downloaded: {reason}. "
            "Pass a local diffusers folder to --model or check the network"
        ) from None
