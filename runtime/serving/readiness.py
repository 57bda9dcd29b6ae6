"""Whether the guard can be relied on: the server's state, and when the canaries are asked again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from runtime.serving.errors import NotReadyError
from runtime.serving.log import log

STATES = ("starting", "ready", "draining", "failed")


class Readiness:
    """The state of a server. "failed" lasts until an operator asks for another start. Threads may share it.

    Args:
        images, seconds: after so many images or so long the canaries are due.
        changed: told each new state.
    """

    def __init__(self, images: int, seconds: float, changed: Callable[[str], None] = lambda state: None) -> None:
        self._every_images, self._every_seconds, self._changed = images, seconds, changed
        self.state, self.why = "starting", "no picture was drawn yet"
        self._images, self._checked = 0, time.monotonic()
        self._lock = threading.Lock()

    def require(self) -> None:
        """Raise NotReadyError unless pictures may be drawn."""
        if self.state != "ready":
            raise NotReadyError(f"server: expected it to be ready, found it {self.state}: {self.why}")

    @property
    def works(self) -> bool:
        """Whether what was accepted may be drawn."""
        return self.state in ("ready", "draining")

    @property
    def due(self) -> bool:
        """Whether canaries must be asked before the next image."""
        return self._images >= self._every_images or time.monotonic() - self._checked >= self._every_seconds

    def drew(self, images: int) -> None:
        """Count images towards the next check."""
        self._images += images

    def checked(self) -> None:
        """The canaries were judged rightly."""
        self._images, self._checked = 0, time.monotonic()

    def begin(self) -> None:
        """Begin another start, as an operator asked."""
        self._set("starting", "an operator asked for another start", of=("failed",))

    def ready(self) -> None:
        """All that a start checks was right."""
        self._set("ready", "", of=("starting",))

    def fail(self, why: str) -> None:
        """Draw nothing any more until an operator acts."""
        self._set("failed", why, of=STATES)

    def drain(self) -> None:
        """Accept nothing more; what was accepted is drawn, unless the server has failed."""
        self._set("draining", "the server is stopping", of=("starting", "ready"))

    def _set(self, state: str, why: str, *, of: tuple[str, ...]) -> None:
        """Change the state, if it is one of these."""
        with self._lock:
            if self.state not in of:
                return
            self.state, self.why = state, why
            self._changed(state)
        log("state", state=state, why=why)
