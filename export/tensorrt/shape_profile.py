"""Ranges of shapes that a TensorRT engine is built for, from `MIN:OPT:MAX` options and the specs."""

from __future__ import annotations

from dataclasses import dataclass

from engines.errors import InputError
from engines.geometry import Geometry, nearest_multiples
from engines.networks import SLOTS, TensorSpec


@dataclass(frozen=True)
class Span:
    """Smallest, preferred and largest value of one size."""

    minimum: int
    optimum: int
    maximum: int

    @classmethod
    def parse(cls, name: str, text: str, multiple: int = 1) -> Span:
        """`MIN:OPT:MAX`, or one number for a size that never changes; each a multiple of `multiple`.

        Raises:
            InputError: not such a text.
        """
        try:
            values = [int(part) for part in text.split(":")]
        except ValueError:
            values = []
        if len(values) == 1:
            values *= 3
        if len(values) != 3 or not 0 < values[0] <= values[1] <= values[2]:
            raise InputError(f"{name}: expected MIN:OPT:MAX in rising order or one number, found {text!r}")
        if wrong := [value for value in values if value % multiple]:
            raise InputError(
                f"{name}: expected multiples of {multiple} pixels, found {wrong[0]}; nearest: "
                f"{nearest_multiples(wrong[0], multiple)}"
            )
        return cls(*values)

    def __str__(self) -> str:
        return ":".join(str(value) for value in (self.minimum, self.optimum, self.maximum))


@dataclass(frozen=True)
class Profile:
    """Images in a batch, and picture height and width in pixels."""

    batch: Span
    height: Span
    width: Span

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
