"""The one thread that runs engines."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from engines.errors import NonFiniteError
from runtime.pipeline import GuardedPipeline
from runtime.report import Result
from runtime.serving.errors import NotReadyError
from runtime.serving.jobs import Drawn, Job
from runtime.serving.request_queue import RequestQueue
from runtime.serving.single_images import together


class Abandoned(Exception):
    """Nobody waits for any image of the batch."""


class Worker(threading.Thread):
    """Takes batches from the queue until it is stopped.

    Args:
        failed: called with the reason when the guard can no longer be relied on.
    """

    def __init__(self, pipeline: GuardedPipeline, queue: RequestQueue, batch_size: int, failed: Callable[[str], None]) -> None:
        super().__init__(name="engines", daemon=True)
        self._pipeline, self._queue, self._batch_size, self._failed = pipeline, queue, batch_size, failed
        self._stopped = False
        self.seconds_per_image = 1.0  # a running mean

    def run(self) -> None:
        while not self._stopped:
            if batch := [job for job in self._queue.take(self._batch_size, timeout=1.0) if job.wanted]:
                self._draw(batch)

    def stop(self) -> None:
        """End after the batch in progress."""
        self._stopped = True
        self._queue.close()

    def _draw(self, batch: list[Job]) -> None:
        """Whatever happens, every job of the batch is answered."""
        begun = time.perf_counter()
        try:
            result = self._result(batch)
        except Abandoned:
            return
        except NonFiniteError as error:
            self._failed("a network or the guard gave NaN, infinity or an impossible answer")
            for job in batch:
                job.fail(error)
            return
        except Exception as error:
            self._failed(f"{type(error).__name__} in the engine thread")
            for job in batch:
                job.fail(NotReadyError("the engines failed; the operator must act"))
            return
        seconds = (time.perf_counter() - begun) / len(batch)
        self.seconds_per_image += 0.2 * (seconds - self.seconds_per_image)
        for job, image, report in zip(batch, result.images, result.reports, strict=True):
            job.done(Drawn(image, report, result.execution))

    def _result(self, batch: list[Job]) -> Result:
        def progress(done: int, steps: int) -> None:
            if not any(job.wanted for job in batch):
                raise Abandoned
            for job in batch:
                job.step(done, steps)

        return self._pipeline(**vars(together([job.request for job in batch])), progress=progress)
