"""A model in a single file (.safetensors, .ckpt) with the names of the original implementation: Stable Diffusion 1.x or 2.x.

Such a file has weights and no config. The two families' configs are in `configs/`; what tells them apart, and whether the
model predicts noise or v, is read from the weights. Another model's configs, and the tokenizer, come from a folder.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engines.errors import InputError
from export.sources.hub import download
from export.sources.model_folder import (
    COMPONENTS,
    INDEX,
    SCHEDULER_FILE,
    TOKENIZER_FILES,
    Source,
    parsed,
)
from export.sources.original_file import OriginalFile

if TYPE_CHECKING:
    from torch import Tensor

CONFIGS = Path(__file__).parent / "configs"
FAMILIES = {768: "sd1", 1024: "sd2"}  # by prompt width; folders of CONFIGS
PADS = {"sd1": "<|endoftext|>", "sd2": "!"}
ON_THE_HUB = {"sd1": "v1", "sd2": "v2"}  # diffusers' names of the repositories that it takes a single file's tokenizer from
NOISE_SIZES = {"sd2": 64}  # latents' side of a family's models that predict noise, where it is not that of `configs/`
ALPHAS = "alphas_cumprod"
ALPHAS_TOLERANCE = 2e-3  # float16's step is below, a zero-SNR schedule differs by 5e-3


@dataclass(frozen=True)
class SingleFile(Source):
    """`folder` is the file itself; `configs` a diffusers folder, weights or not, whose configs and tokenizer are used instead."""

    configs: Path | None = None
    file: OriginalFile = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raises InputError for a file that is no such model, or a folder that is none."""
        if self.configs is not None and not self.configs.is_dir():
            raise InputError(f"{self.configs}: expected a folder of configs (--config), found none")
        object.__setattr__(self, "file", OriginalFile(self.folder))

    def check_own(self, components: Collection[str] = tuple(COMPONENTS)) -> None:
        self.file.check(components)
        self._check_noise_schedule()

    def path(self, component: str, file: str = "config.json") -> Path:
        """In the user's folder where it has the component, else here."""
        if component == "tokenizer":
            return self._tokenizer / file
        if self.configs is not None and (path := self.configs / component / file).is_file():
            return path
        return CONFIGS / self.family / component / file

    def config(self, component: str, file: str = "config.json") -> dict[str, Any]:
        path = self.path(component, file)
        config = parsed(path)
        if component == "scheduler" and CONFIGS in path.parents:
            config["prediction_type"] = self._prediction
        return config

    @cached_property
    def index(self) -> dict[str, Any]:
        path = None if self.configs is None else self.configs / INDEX
        return parsed(path) if path is not None and path.is_file() else {}

    @cached_property
    def width(self) -> int:
        """Of the prompt, from the weights of cross-attention."""
        return self.file.prompt_width

    @property
    def family(self) -> str:
        """Of the configs here. Raises InputError where the weights are of neither family."""
        if self.width not in FAMILIES:
            raise InputError(
                f"{self.folder}: prompt width: expected 768 (Stable Diffusion 1.x) or 1024 (2.x), found {self.width}; for another "
                "model pass --config FOLDER, a diffusers folder with its configs"
            )
        return FAMILIES[self.width]

    def notes(self) -> list[str]:
        found = [f"prompt width {self.width}, {self.scheduler.get('prediction_type')}"]
        found.append(f"tokenizer of {self.path('tokenizer', '')}")
        return found + ([f"{self.file.ema} tensors of the training's average (EMA) are not read"] if self.file.ema else [])

    def tensors(self, component: str) -> dict[str, Tensor]:
        from export.sources.original_names import to_diffusers

        return to_diffusers(component, self.file.tensors(component), self.config(component), self.folder)

    def weights(self, component: str) -> list[Path]:
        return [self.folder]

    def files(self, component: str) -> list[Path]:
        if component == "tokenizer":
            return [path for name in TOKENIZER_FILES if (path := self.path(component, name)).is_file()]
        return [self.path(component), self.folder]

    @property
    def pad_token(self) -> str | None:
        """What the tokenizer must pad with; None where the user's folder decides."""
        return None if self._configured("tokenizer") else PADS[self.family]

    def _configured(self, component: str) -> bool:
        return self.configs is not None and (self.configs / component).is_dir()

    def sample_size(self, unet: dict[str, Any]) -> tuple[int, int]:
        if CONFIGS in self.path("unet").parents and self.family in NOISE_SIZES and self.scheduler["prediction_type"] == "epsilon":
            return NOISE_SIZES[self.family], NOISE_SIZES[self.family]
        return super().sample_size(unet)

    @cached_property
    def _tokenizer(self) -> Path:
        """The user's, the one beside the file, or that of the family's repository on the hub."""
        if self.configs is not None and self._configured("tokenizer"):
            return self.configs / "tokenizer"
        if (beside := self.folder.parent / "tokenizer").is_dir():
            return beside
        from diffusers.loaders.single_file_utils import DIFFUSERS_DEFAULT_PIPELINE_PATHS

        repository = DIFFUSERS_DEFAULT_PIPELINE_PATHS[ON_THE_HUB[self.family]]["pretrained_model_name_or_path"]
        try:
            return download(repository, [f"tokenizer/{name}" for name in TOKENIZER_FILES]) / "tokenizer"
        except InputError as error:
            raise InputError(
                f"{self.folder}: a single file has no tokenizer; expected CLIP's vocab.json and merges.txt in {beside} or in "
                f"FOLDER/tokenizer of --config FOLDER, found neither, and they could not be downloaded: {error}"
            ) from None

    @cached_property
    def _prediction(self) -> str:
        from export.sources.load import load_component
        from export.sources.prediction import shown_prediction

        if (found := shown_prediction(load_component(self, "unet", lambda _: None))) is None:
            raise InputError(
                f"{self.folder}: expected a model that predicts noise or v, found neither at its last timestep; pass --config "
                f"FOLDER with scheduler/{SCHEDULER_FILE} in it, which has the prediction_type"
            )
        return found

    def _check_noise_schedule(self) -> None:
        """Raise InputError where the file has a noise schedule of its own and no scheduler was given that has it too."""
        if self._configured("scheduler") or (found := self.file.array(ALPHAS)) is None:
            return
        expected = _alphas(parsed(self.path("scheduler", SCHEDULER_FILE)))
        if found.shape != expected.shape or not math.isfinite(found.sum()) or np.abs(found - expected).max() > ALPHAS_TOLERANCE:
            raise InputError(
                f"{self.folder}: {ALPHAS}: expected Stable Diffusion's noise schedule, ending in [{expected[-1]:.5f}], found "
                f"another, ending in {found.flatten()[-1:].round(5)}; pass --config FOLDER that has scheduler/{SCHEDULER_FILE}"
            )


def _alphas(scheduler: Mapping[str, Any]) -> np.ndarray:
    """ᾱ of the families' schedule, `scaled_linear`."""
    ends = (math.sqrt(scheduler["beta_start"]), math.sqrt(scheduler["beta_end"]), scheduler["num_train_timesteps"])
    return np.cumprod(1 - np.linspace(*ends) ** 2)
