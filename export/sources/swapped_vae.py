"""`saferedir build --vae`: a model with another autoencoder in the place of its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.errors import InputError
from export.sources.model_folder import COMPONENTS, Source
from export.sources.original_file import EMA, PREFIXES, SUFFIXES, trained_tensors

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SwappedVae(Source):
    """`model` is what everything else is of.

    `vae` is a diffusers folder, or a file of weights, whose config is the one beside it or else the model's; their names are
    diffusers' or the original implementation's. Of a file with a whole model the autoencoder is taken. The model itself may lack
    one.
    """

    model: Source
    vae: Path

    def __post_init__(self) -> None:
        """Raises InputError for what is neither."""
        if not self.vae.is_dir() and not (self.vae.is_file() and self.vae.suffix in SUFFIXES):
            kinds = f"a folder with config.json and weights, or a file ending in one of {', '.join(SUFFIXES)}"
            raise InputError(f"--vae: expected {kinds}, found {self.vae}")

    def check_own(self, components: Collection[str] = tuple(COMPONENTS)) -> None:
        self.model.check_own([component for component in components if component != "vae"])

    @property
    def places(self) -> list[Path]:
        return [*self.model.places, self.vae]

    @property
    def pad_token(self) -> str | None:
        return self.model.pad_token

    def notes(self) -> list[str]:
        return self.model.notes()

    @cached_property
    def index(self) -> dict[str, Any]:
        return {component: said for component, said in self.model.index.items() if component != "vae"}

    def sample_size(self, unet: dict[str, Any]) -> tuple[int, int]:
        return self.model.sample_size(unet)

    def path(self, component: str, file: str = "config.json") -> Path:
        given = (self.vae if self.vae.is_dir() else self.vae.parent) / file
        return given if component == "vae" and (self.vae.is_dir() or given.is_file()) else self.model.path(component, file)

    def config(self, component: str, file: str = "config.json") -> dict[str, Any]:
        return super().config(component, file) if component == "vae" else self.model.config(component, file)

    def weights(self, component: str) -> list[Path]:
        return super().weights(component) if component == "vae" else self.model.weights(component)

    def _weights(self, component: str) -> Path:
        return self.vae if self.vae.is_file() else super()._weights(component)

    def files(self, component: str) -> list[Path]:
        return super().files(component) if component == "vae" else self.model.files(component)

    def tensors(self, component: str) -> dict[str, Tensor]:
        if component != "vae":
            return self.model.tensors(component)
        from export.sources.original_names import in_full, to_diffusers

        tensors = super().tensors(component) if self.vae.is_dir() else _of_the_network(trained_tensors(self.vae))
        file = self.weights(component)[0]
        if all(name[0].isdigit() for name in tensors):
            raise InputError(
                f"{file}: expected an autoencoder, found layers with numbers for names, as TAESD's own release has them; pass the "
                "diffusers folder of the same weights"
            )
        if (prefix := in_full(component, tensors)) is None:
            return tensors
        return to_diffusers(component, {prefix + name: tensor for name, tensor in tensors.items()}, self.config(component), file)


def _of_the_network(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without what a training keeps beside: its loss, and the average of the weights. Of a whole model its autoencoder."""
    whole = any(name.startswith(PREFIXES["unet"]) for name in tensors)
    if whole and (own := {name: tensor for name, tensor in tensors.items() if name.startswith(PREFIXES["vae"])}):
        return own
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(("loss.", EMA))}
