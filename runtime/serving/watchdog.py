"""Notices engines that have stopped answering: a native call that hangs raises nothing, and no thread can end it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOOK_SECONDS = 0.5  # between two looks at whether the engines are still at work


class GivenUp(Exception):
    """What the engines were doing came back after it was given up; whatever it gave is worth nothing."""


class Watchdog(threading.Thread):
    """Gives up what the engine thread does once `seconds` pass without a sign of life from it.

    Seconds are counted in looks of this thread, so that a process that was stopped for a while, as by a debugger, counts none.
    A call that holds Python's lock stops this thread as well; then nothing in the process answers, `/health` neither.

    `hangs` is whether something was given up and has not come back.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._seconds, self._lock, self._ended = seconds, threading.Lock(), threading.Event()
        self._on_hang: Callable[[], None] | None = None  # None while the engine thread does nothing
        self._silent, self.hangs = 0.0, False

    def run(self) -> None:
        """The thread's work, until `end`."""
        while not self._ended.wait(LOOK_SECONDS):
            with self._lock:  # so that nothing comes back while it is given up
                self._silent += LOOK_SECONDS
                if self._on_hang is not None and self._silent > self._seconds:
                    self.hangs = True
                    self._on_hang()

    def end(self) -> None:
        """End the thread."""
        self._ended.set()

    @contextmanager
    def watching(self, on_hang: Callable[[], None]) -> Iterator[None]:
        """Watch the block. `on_hang` is called in the watchdog's thread, at every look from the bound to the block's end.

        Raises:
            GivenUp: the block has ended after all; an error of its own is dropped.
        """
        with self._lock:
            self._silent, self._on_hang = 0.0, on_hang
        try:
            yield
        finally:
            with self._lock:
                late, self.hangs, self._on_hang = self.hangs, False, None
            if late:
                raise GivenUp

    def beat(self) -> None:
        """A sign of life from within the block.

        Raises:
            GivenUp: it comes too late.
        """
        with self._lock:
            if self.hangs:
                raise GivenUp
            self._silent = 0.0
