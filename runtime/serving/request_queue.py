"""The bounded queue of images that wait for the engines."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from runtime.serving.errors import NotReadyError, QueueFullError
from runtime.serving.jobs import Job


class RequestQueue:
    """First come, first served. Threads may share it.

    Args:
        length: images that may wait.
        seconds_per_row: of one image, as measured, to say when there may be room again.
    """

    def __init__(self, length: int, seconds_per_row: Callable[[], float]) -> None:
        self._length, self._seconds_per_row = length, seconds_per_row
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._jobs)

    def put(self, jobs: Sequence[Job]) -> None:
        """Append all of a request's images or none.

        Raises:
            QueueFullError: not all of them have room.
            NotReadyError: the queue is closed.
        """
        with self._changed:
            if self._closed:
                raise NotReadyError("queue: expected an open one, found that the server is stopping")
            if len(self._jobs) + len(jobs) > self._length:
                found = f"{len(self._jobs)} and {len(jobs)} more"
                raise QueueFullError(
                    f"queue: expected at most {self._length} waiting images, found {found}", self.retry_after(self._jobs)
                )
            self._jobs.extend(jobs)
            self._changed.notify()

    def retry_after(self, waiting: Iterable[Job]) -> float:
        """Seconds that these images will take."""
        return sum(job.kind.rows for job in waiting) * self._seconds_per_row()

    def remove(self, jobs: Sequence[Job]) -> None:
        """Take images out that nobody waits for any more."""
        with self._changed:
            self._jobs = deque(job for job in self._jobs if job not in jobs)
            self._changed.notify()

    def take(self, most: int, timeout: float) -> list[Job]:
        """The next images, which share a batch; none after `timeout` seconds, or once the queue is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed, timeout)
            batch: list[Job] = []
            if self._jobs:
                batch = [job for job in self._jobs if job.kind == self._jobs[0].kind][:most]
                self._jobs = deque(job for job in self._jobs if job not in batch)
            return batch

    def drain(self) -> list[Job]:
        """Take everything out."""
        with self._changed:
            jobs, self._jobs = list(self._jobs), deque()
            return jobs

    def close(self) -> None:
        """Let `take` return at once when nothing waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
