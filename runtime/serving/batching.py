"""Which images may share a batch.

Every batch of a server has the same number of images: one that is not full is filled up with copies of its first image. What comes
out then depends on the image, the engines and that number, and on nothing else that was asked for: engines round differently in
batches of different sizes, but not, as is checked at the start, beside other neighbours. `docs/serving.md` has the figures.
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime.preparation import Preparation


@dataclass(frozen=True)
class Kind:
    """Images of equal kinds run through the same calls of the same networks in the same shapes.

    Rows are among them: an image with fewer would be carried along through calls that it does not need.
    """

    size: tuple[int, int]
    rows: int
    slots: int
    noisy: bool
    branches: int
    before: bool
    unguarded: bool

    @classmethod
    def of(cls, prepared: Preparation) -> Kind:
        """Of a request of one image."""
        sampler = prepared.samplers[0]
        return cls(
            size=prepared.size,
            rows=sampler.rows,
            slots=sampler.slots,
            noisy=bool(sampler.noisy.any()),
            branches=prepared.branches,
            before=prepared.checks[0] == "before",
            unguarded=prepared.request.unguarded,
        )
