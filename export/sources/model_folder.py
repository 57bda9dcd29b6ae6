"""The model to export: of the Stable Diffusion 1.x/2.x family, a diffusers folder or hub id. Reads configs; loads weights late."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.version import InvalidVersion, Version

from engines.errors import InputError
from engines.geometry import Geometry
from engines.git_lfs import lfs_problem
from export.sources.component_rules import FAMILY, check_class, check_index, check_rules, whole, widths
from export.sources.scheduler_config import as_pipeline_corrects

if TYPE_CHECKING:
    from torch import Tensor

COMPONENTS = {"text_encoder": "CLIPTextModel", "unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
INDEX = "model_index.json"
SCHEDULER_FILE = "scheduler_config.json"
STEMS = ("model", "diffusion_pytorch_model", "pytorch_model")
# A file of weights, or the list of its shards: safetensors before .bin, full precision before float16.
WEIGHTS = tuple(
    name
    for suffix in ("safetensors", "bin")
    for variant in ("", ".fp16")
    for stem in STEMS
    for name in (f"{stem}{variant}.{suffix}", f"{stem}.{suffix}.index{variant}.json")
)
TOKENIZER_FILES = (
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


@dataclass(frozen=True)
class Source:
    """A model on disk. `name` is what the user called it."""

    name: str
    folder: Path

    @property
    def places(self) -> list[Path]:
        """Folders and files that are the model's."""
        return [self.folder]

    @property
    def pad_token(self) -> str | None:
        """What the tokenizer must pad with; None where its own config decides."""
        return None

    def notes(self) -> list[str]:
        """What was found out about the model that its configs do not say, one line each."""
        return []

    def tensors(self, component: str) -> dict[str, Tensor]:
        """A component's weights under diffusers' names, as they are in the files."""
        from export.sources.weights import read_shards

        return read_shards(self.weights(component))

    def path(self, component: str, file: str = "config.json") -> Path:
        """Where a component's file is, or would be."""
        return self.folder / component / file

    def config(self, component: str, file: str = "config.json") -> dict[str, Any]:
        """A component's parsed config."""
        return parsed(self.path(component, file))

    def class_name(self, component: str) -> str:
        """The library's class: an autoencoder's config says which of those that can be exported it is."""
        name = self.config(component).get("_class_name") if component == "vae" else None
        return COMPONENTS[component] if name is None else str(name).removeprefix("Flax")

    @cached_property
    def index(self) -> dict[str, Any]:
        """What model_index.json says; empty where there is none, and the components' configs decide."""
        path = self.folder / INDEX
        return parsed(path) if path.is_file() else {}

    @cached_property
    def scheduler(self) -> dict[str, Any]:
        """The scheduler's config as diffusers' pipeline uses it: of the class that model_index.json names, and corrected."""
        return as_pipeline_corrects(self.config("scheduler", SCHEDULER_FILE), self.index.get("scheduler"))

    @cached_property
    def geometry(self) -> Geometry:
        text, unet, vae = (self.config(component) for component in ("text_encoder", "unet", "vae"))
        factor = 2 ** (len(self._decoder_widths(vae)) - 1)
        height, width = (side * factor for side in self.sample_size(unet))
        return Geometry(
            embed_dim=whole(text, "hidden_size", self.path("text_encoder")),
            scale_factor=factor,
            default_height=height,
            default_width=width,
            text_layers=whole({"num_hidden_layers": 12, **text}, "num_hidden_layers", self.path("text_encoder")),
            time_cond_proj_dim=self._guidance_width(unet),
        )

    def _guidance_width(self, unet: dict[str, Any]) -> int:
        """Of the embedding of the guidance scale, of which half are sines and half cosines; 0 where the UNet takes none."""
        if unet.get("time_cond_proj_dim") is None:
            return 0
        width = whole(unet, "time_cond_proj_dim", self.path("unet"))
        if width < 4:
            raise InputError(f"{self.path('unet')}: time_cond_proj_dim: expected at least 4, found {width}")
        return width

    def _decoder_widths(self, vae: dict[str, Any]) -> list[int]:
        if self.class_name("vae") == "AutoencoderTiny":
            key = "decoder_block_out_channels"
            return widths({key: [64] * 4, **vae}, key, self.path("vae"))
        return widths(vae, "block_out_channels", self.path("vae"))

    def sample_size(self, unet: dict[str, Any]) -> tuple[int, int]:
        """Height and width of latents. diffusers reads less than 64 in files from before its version 0.9 as 64."""
        size = unet.get("sample_size")
        if isinstance(size, list) and len(size) == 2:
            sides = {"height": size[0], "width": size[1]}
            return whole(sides, "height", self.path("unet")), whole(sides, "width", self.path("unet"))
        side = 64 if size is None else whole(unet, "sample_size", self.path("unet"))
        if (written_by := unet.get("_diffusers_version")) is None or side >= 64:
            return side, side
        try:
            old = Version(Version(str(written_by)).base_version) < Version("0.9.0.dev0")
        except InvalidVersion:
            raise InputError(f"{self.path('unet')}: _diffusers_version: expected a version, found {written_by!r}") from None
        return (64, 64) if old else (side, side)

    def weights(self, component: str) -> list[Path]:
        """The files of weights that will be read: one, or the shards of one."""
        file = self._weights(component)
        return _shards(file) if file.suffix == ".json" else [file]

    def _weights(self, component: str) -> Path:
        for name in WEIGHTS:
            if (path := self.path(component, name)).is_file():
                return path
        raise InputError(f"{self.path(component).parent}: expected weights, as {WEIGHTS[0]} or {WEIGHTS[2]}, found none")

    def files(self, component: str) -> list[Path]:
        """Every file that decides what is exported of a component."""
        if component == "tokenizer":
            return [path for name in TOKENIZER_FILES if (path := self.path(component, name)).is_file()]
        return [self.path(component), *dict.fromkeys((self._weights(component), *self.weights(component)))]

    def check(self) -> None:
        """Raises InputError for what is not of the Stable Diffusion 1.x/2.x family."""
        self.check_own()
        self._check_configs()

    def check_own(self, components: Collection[str] = tuple(COMPONENTS)) -> None:
        """Raises InputError for what is no model with these components, their configs aside."""
        if not self.folder.joinpath("unet").is_dir() and not self.index:
            raise InputError(f"{self.folder}: expected a diffusers model folder, with unet/ in it, found none")

    def _check_configs(self) -> None:
        check_index(self.index, self.folder / INDEX)
        indexed, name = self.index.get("vae"), self.class_name("vae")
        if isinstance(indexed, list) and indexed[1] != name:
            raise InputError(f"{self.path('vae')}: _class_name: expected {indexed[1]} as {INDEX} says, found {name!r}")
        for component in COMPONENTS:
            check_class(component, self.config(component), self.path(component))
            check_rules(component, self.class_name(component), self.config(component), self.path(component))
        width, found = self.geometry.embed_dim, self.config("unet").get("cross_attention_dim", 1280)
        if found != width:
            raise InputError(f"{self.path('unet')}: cross_attention_dim: expected {width!r} {FAMILY}, found {found!r}")
        scale = self.config("vae").get("scaling_factor", 0.18215)
        if not isinstance(scale, (int, float)) or isinstance(scale, bool) or not 0 < scale < math.inf:
            raise InputError(f"{self.path('vae')}: scaling_factor: expected a number above 0, found {scale!r}")
        self._check_tokenizer()

    def _check_tokenizer(self) -> None:
        if (path := self.path("tokenizer", "tokenizer_config.json")).is_file():
            check_class("tokenizer", parsed(path), path)
        if self.path("tokenizer", "tokenizer.json").is_file():
            return
        for file in TOKENIZER_FILES[:2]:
            if not (path := self.path("tokenizer", file)).is_file():
                raise InputError(f"{path}: expected a CLIP tokenizer's {file}, or tokenizer.json in its place, found none")


def parsed(path: Path) -> dict[str, Any]:
    """A JSON file's object. Raises InputError where it has none."""
    try:
        if (problem := lfs_problem(path)) is not None:
            raise InputError(problem)
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: expected in a diffusers model folder, cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def _shards(listing: Path) -> list[Path]:
    """The shards that an index file lists."""
    places = parsed(listing).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise InputError(f"{listing}: weight_map: expected tensors and their files, found {type(places).__name__}")
    names = sorted(set(places.values()))
    for name in names:
        if name != Path(name).name:
            raise InputError(f"{listing}: expected shards beside it, found {name!r}")
        if not (listing.parent / name).is_file():
            raise InputError(f"{listing.parent / name}: expected a shard of the weights, found none")
    return [listing.parent / name for name in names]
