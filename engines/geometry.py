"""Sizes of a model, and the picture sizes that it takes."""

from __future__ import annotations

from dataclasses import dataclass

from engines.errors import InputError
from engines.networks import with_derived


@dataclass(frozen=True)
class Geometry:
    """Sizes of the model.

    embed_dim                      D
    scale_factor                   f of the autoencoder; pictures have multiples of it as height and width
    default_height, default_width  pixels
    text_layers                    of the text encoder; `clip_skip` can leave out as many
    """

    embed_dim: int
    scale_factor: int
    default_height: int
    default_width: int
    text_layers: int

    def __post_init__(self) -> None:
        """Raises InputError for sizes that no model has."""
        for name, value in vars(self).items():
            if value < 1:
                raise InputError(f"geometry.{name}: expected at least 1, found {value}")

    def sizes(self, height: int, width: int, **others: int) -> dict[str, int]:
        """A number for every symbol of `engines.networks` that follows from a picture's size in pixels and from `others`."""
        factor = self.scale_factor
        known = {"f": factor, "D": self.embed_dim, "H": height // factor, "W": width // factor}
        return with_derived({**known, **others})


def nearest_multiples(size: float, multiple: int) -> str:
    """The sizes around one that the model cannot take, for error messages."""
    below = int(size // multiple) * multiple
    return " or ".join(str(near) for near in (below, below + multiple) if near > 0)
