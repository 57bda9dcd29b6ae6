"""Sizes of a model, and the picture sizes that it takes."""

from __future__ import annotations

from dataclasses import dataclass

from engines.errors import InputError
from engines.networks import with_derived

LARGEST_SIDE = 16_384  # pixels


@dataclass(frozen=True)
class Geometry:
    """Sizes of the model: `embed_dim` D; `scale_factor` f of the autoencoder; sizes in pixels."""

    embed_dim: int
    scale_factor: int
    size_multiple: int  # height and width must be multiples of this: f times the UNet's downsamplings
    default_height: int
    default_width: int

    def __post_init__(self) -> None:
        """Raises InputError for sizes that no model has."""
        for name, value in vars(self).items():
            if value < 1:
                raise InputError(f"geometry.{name}: expected at least 1, found {value}")
        if (largest := max(self.default_height, self.default_width)) > LARGEST_SIDE:
            raise InputError(f"geometry: expected a default size of at most {LARGEST_SIDE} pixels, found {largest}")
        if self.size_multiple % self.scale_factor:
            raise InputError(f"geometry.size_multiple: expected a multiple of {self.scale_factor}, found {self.size_multiple}")

    def sizes(self, height: int, width: int, **others: int) -> dict[str, int]:
        """A number for every symbol of `engines.networks` that follows from a picture's size in pixels and from `others`."""
        factor = self.scale_factor
        known = {"f": factor, "D": self.embed_dim, "H": height // factor, "W": width // factor}
        return with_derived({**known, **others})


def nearest_multiples(size: float, multiple: int) -> str:
    """The sizes around one that the model cannot take, for error messages."""
    below = int(size // multiple) * multiple
    return " or ".join(str(near) for near in (below, below + multiple) if near > 0)
