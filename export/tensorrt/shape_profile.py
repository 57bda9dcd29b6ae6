"""Ranges of shapes that a TensorRT engine is built for, from sizes and the specs."""

from __future__ import annotations

from dataclasses import dataclass

from engines.geometry import Geometry
from engines.networks import SLOTS, TensorSpec
from engines.sizes import Sizes, Span


@dataclass(frozen=True)
class Profile:
    """Images in a batch, and picture height and width in pixels."""

    batch: Span
    height: Span
    width: Span

    @classmethod
    def of(cls, sizes: Sizes) -> Profile:
        """Of sizes that all have bounds."""
        return cls(*(Span.parse(name, text) for name, text in vars(sizes).items()))

    def shapes(self, tensor: TensorSpec, geometry: Geometry, concepts: int) -> tuple[tuple[int, ...], ...]:
        """Smallest, preferred and largest shape of a tensor.

        Rows of the text encoder and the UNet run from one per image, without guidance, to two.
        """
        shapes = []
        for place, (images, branches) in enumerate(((self.batch.minimum, 1), (self.batch.optimum, 2), (self.batch.maximum, 2))):
            height, width = ((span.minimum, span.optimum, span.maximum)[place] for span in (self.height, self.width))
            sizes = {"B": images, "C": branches, "K": concepts, "S": SLOTS[place]}
            shapes.append(tensor.shape(geometry.sizes(height, width, **sizes)))
        return tuple(shapes)
