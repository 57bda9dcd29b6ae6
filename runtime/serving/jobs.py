"""A job: one image on its way from a request to the engines and back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from PIL import Image

from engines.backends.program import Execution
from runtime.report import ImageReport
from runtime.request import Request
from runtime.serving.batching import Kind


@dataclass(frozen=True, eq=False)
class Drawn:
    """What became of an image."""

    image: Image.Image | None
    report: ImageReport
    execution: Execution


@dataclass(frozen=True, eq=False)
class Job:
    """One image.

    kind      images of equal kinds may share a batch
    future    of the event loop that waits for it
    progress  called in that loop with the steps done and all steps
    """

    request: Request
    kind: Kind
    future: asyncio.Future[Drawn]
    progress: Callable[[int, int], None] | None = None
    since: float = field(default_factory=time.monotonic)

    @property
    def wanted(self) -> bool:
        """Whether somebody still waits for it."""
        return not self.future.done()

    def done(self, drawn: Drawn) -> None:
        """Hand the image over, from any thread."""
        self._in_loop(self.future.set_result, drawn)

    def fail(self, error: Exception) -> None:
        """Hand the error over, from any thread."""
        self._in_loop(self.future.set_exception, error)

    def step(self, done: int, steps: int) -> None:
        """Tell how far it is, from any thread."""
        if self.progress is not None:
            self._in_loop(self.progress, done, steps)

    def _in_loop(self, call: Callable[..., object], *arguments: object) -> None:
        """Call it in the event loop, unless nobody waits any more by then."""

        def run() -> None:
            if self.wanted:
                call(*arguments)

        with suppress(RuntimeError):  # the loop was closed, and nobody waits
            self.future.get_loop().call_soon_threadsafe(run)
