"""Sizes of pictures and of batches that engines are built for."""

from __future__ import annotations

from dataclasses import dataclass, fields

from engines.errors import InputError
from engines.geometry import LARGEST_SIDE, nearest_multiples
from engines.printable import shown


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
        parts = text.split(":")
        values = [int(part) for part in parts if part.isascii() and part.isdecimal() and len(part) < 10]
        if len(parts) == 1:
            values *= 3
        if len(parts) not in (1, 3) or len(values) != 3 or not 0 < values[0] <= values[1] <= values[2] <= LARGEST_SIDE:
            raise InputError(
                f"{name}: expected MIN:OPT:MAX in rising order or one number, at most {LARGEST_SIDE}, found {shown(text)}"
            )
        if wrong := [value for value in values if value % multiple]:
            raise InputError(
                f"{name}: expected multiples of {multiple} pixels, found {wrong[0]}; nearest: "
                f"{nearest_multiples(wrong[0], multiple)}"
            )
        return cls(*values)

    def __str__(self) -> str:
        return ":".join(str(value) for value in (self.minimum, self.optimum, self.maximum))

    @property
    def fixed(self) -> bool:
        """Whether there is one value only."""
        return self.minimum == self.maximum


@dataclass(frozen=True)
class Sizes:
    """Images in a batch, and height and width of pictures in pixels, that engines take: MIN:OPT:MAX, or None for any.

    Raises InputError, which is a ValueError, for another text.
    """

    batch_size: str | None = None
    height: str | None = None
    width: str | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            self.span(field.name)

    def span(self, name: str) -> Span | None:
        """Of one of the fields; None where any value will do."""
        text = getattr(self, name)
        return None if text is None else Span.parse(name, text)

    @property
    def smallest_batch(self) -> int:
        """The fewest images that engines run with."""
        images = self.span("batch_size")
        return 1 if images is None else images.minimum

    @property
    def only(self) -> tuple[int, int, int] | None:
        """Images, height and width where each has one value; else None."""
        spans = [self.span(field.name) for field in fields(self)]
        images, height, width = (span.minimum if span is not None and span.fixed else 0 for span in spans)
        return (images, height, width) if images and height and width else None

    def check(self, **wanted: int) -> None:
        """Raise InputError for a size that these engines were not built for; `wanted` has values of fields."""
        for name, size in wanted.items():
            span = self.span(name)
            if span is None or span.minimum <= size <= span.maximum:
                continue
            expected = str(span.minimum) if span.fixed else f"{span.minimum} to {span.maximum}"
            raise InputError(
                f"{name}: expected {expected}, for which these engines were built, found {size}; "
                f"rebuild with: saferedir build --{name.replace('_', '-')} MIN:OPT:MAX"
            )
