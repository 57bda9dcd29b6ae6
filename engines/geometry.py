"""Sizes of a model, and the picture sizes that it takes."""

from __future__ import annotations

from dataclasses import dataclass

from engines.errors import InputError
from engines.networks import GUIDED_UNET, NETWORKS, NetworkSpec, with_derived

LARGEST_SIDE = 16_384  # pixels


@dataclass(frozen=True)
class Geometry:
    """Sizes of the model.

    embed_dim                      D
    scale_factor                   f of the autoencoder; pictures have multiples of it as height and width
    default_height, default_width  pixels
    text_layers                    of the text encoder; `clip_skip` can leave out as many
    time_cond_proj_dim             G of a UNet that was distilled with its guidance; 0 where guidance is classifier-free
    """

    embed_dim: int
    scale_factor: int
    default_height: int
    default_width: int
    text_layers: int
    time_cond_proj_dim: int = 0

    def __post_init__(self) -> None:
        """Raises InputError for sizes that no model has."""
        for name, value in vars(self).items():
            if value < (least := int(name != "time_cond_proj_dim")):
                raise InputError(f"geometry.{name}: expected at least {least}, found {value}")
        if (largest := max(self.default_height, self.default_width)) > LARGEST_SIDE:
            raise InputError(f"geometry: expected a default size of at most {LARGEST_SIDE} pixels, found {largest}")

    def spec(self, network: str) -> NetworkSpec:
        """The row of one of the model's networks."""
        return GUIDED_UNET if network == "unet" and self.time_cond_proj_dim else NETWORKS[network]

    def sizes(self, height: int, width: int, **others: int) -> dict[str, int]:
        """A number for every symbol of `engines.networks` that follows from a picture's size in pixels and from `others`."""
        factor = self.scale_factor
        known = {"f": factor, "D": self.embed_dim, "G": self.time_cond_proj_dim, "H": height // factor, "W": width // factor}
        return with_derived({**known, **others})


def nearest_multiples(size: float, multiple: int) -> str:
    """The sizes around one that the model cannot take, for error messages."""
    below = int(size // multiple) * multiple
    return " or ".join(str(near) for near in (below, below + multiple) if near > 0)
