"""The one thread that runs engines: it draws what waits, and asks before and in between whether the guard guards."""

from __future__ import annotations

import logging
import threading
import time
import warnings
from collections.abc import Callable, Sequence

from PIL import Image

from engines.errors import CanaryError, InputError, NonFiniteError
from engines.prompts import TruncationWarning
from runtime.pipeline import GuardedPipeline
from runtime.report import ImageReport, Result
from runtime.request import Request
from runtime.serving.errors import NotReadyError
from runtime.serving.jobs import Drawn, Job
from runtime.serving.log import log, where
from runtime.serving.metrics import Metrics
from runtime.serving.readiness import Readiness
from runtime.serving.request_queue import RequestQueue
from runtime.serving.single_images import together
from runtime.serving.start_checks import independent
from runtime.serving.watchdog import GivenUp, Watchdog

IDLE_SECONDS = 0.5  # between two looks at whether canaries are due
SMOOTHING = 0.2  # weight of the latest batch in the running mean
UNEXPECTED = (
    (NonFiniteError, "a network or the guard gave NaN, infinity or an impossible answer"),
    (CanaryError, "the guard judged a canary wrongly, or not as at its build"),
)


class Abandoned(Exception):
    """Nobody waits for any image of the batch."""


class Worker(threading.Thread):
    """Takes batches from the queue until it is stopped and nothing waits.

    Every batch has `batch_size` images, see `runtime.serving.batching`. `seconds_per_row` is a running mean of what a row of one
    image takes. Whatever nobody expected turns readiness off, and then everything that waits is refused; so does a call of the
    engines that does not return.

    Args:
        warm_up: a request of one image for every size, drawn at each start.
        hang_seconds: see `runtime.serving.limits.Limits`.
    """

    def __init__(
        self,
        pipeline: GuardedPipeline,
        queue: RequestQueue,
        readiness: Readiness,
        metrics: Metrics,
        *,
        warm_up: Sequence[Request],
        batch_size: int,
        hang_seconds: float,
    ) -> None:
        super().__init__(name="engines", daemon=True)
        self._pipeline, self._queue, self._readiness, self._metrics = pipeline, queue, readiness, metrics
        self._warm_up, self.batch_size = warm_up, batch_size
        self._hang_seconds, self._watchdog = hang_seconds, Watchdog(hang_seconds)
        self.seconds_per_row = 0.0
        self._stopped = False

    def run(self) -> None:
        """The thread's work."""
        warnings.simplefilter("ignore", TruncationWarning)  # its text is the prompt's end, which the report has
        try:
            self._watchdog.start()
            while not (self._stopped and len(self._queue) == 0):
                self._turn()
        finally:
            if not self._stopped:
                self._readiness.fail("the engine thread has ended; restart the server")
            self._refuse(self._queue.drain())
            self._watchdog.end()

    @property
    def hangs(self) -> bool:
        """Whether a call of the engines was given up and has not returned."""
        return self._watchdog.hangs

    def stop(self) -> None:
        """End once nothing waits."""
        self._stopped = True
        self._queue.close()

    def wait(self) -> None:
        """Return once the thread has ended, or hangs."""
        while self.is_alive() and not self.hangs:
            self.join(IDLE_SECONDS)

    def _turn(self) -> None:
        """What is due, then the next batch."""
        if self._readiness.state == "starting":
            self._guarded(self._start, [])
        elif self._readiness.works and self._readiness.due:
            self._guarded(self._ask_canaries, [])
        batch = [job for job in self._queue.take(self.batch_size, IDLE_SECONDS) if job.wanted]
        if not self._readiness.works:
            self._refuse(batch)
        elif batch:
            self._guarded(lambda: self._draw(batch), batch)

    def _guarded(self, step: Callable[[], None], batch: Sequence[Job]) -> None:
        """Take a step; where it fails, every image of the batch is answered with an error."""
        try:
            with self._watchdog.watching(lambda: self._give_up(batch)):
                step()
        except Abandoned:
            return
        except GivenUp:
            log("a call that was given up has returned", logging.WARNING, why="what it gave is discarded")
        except BaseException as error:  # also what would end the thread
            if batch and isinstance(error, InputError):  # as of a batch that does not fit the memory
                return self._fail(batch, error)
            found = f"{type(error).__name__} in the engine thread"
            why = next((text for kind, text in UNEXPECTED if isinstance(error, kind)), found)
            log(
                "engine failure",
                logging.ERROR,
                why=why,
                where=where(error),
                detail=str(error) if isinstance(error, CanaryError) else None,  # others may hold a prompt
            )
            self._readiness.fail(why)
            self._fail(batch, error if isinstance(error, NonFiniteError) else NotReadyError(f"server: {why}"))

    def _give_up(self, batch: Sequence[Job]) -> None:
        """For the watchdog: answer every image in this thread's place; those, too, that come to wait while it hangs."""
        why = f"the engines did not finish a step within {self._hang_seconds:g} s"
        if self._readiness.state != "failed":
            log("engine failure", logging.ERROR, why=why)
            self._metrics.hangs.inc()
            self._readiness.fail(why)
        self._fail([*batch, *self._queue.drain()], NotReadyError(f"server: {why}"))

    def _start(self) -> None:
        """Canaries, then a picture of every size; the server is ready when all of that went well."""
        self._ask_canaries()
        if self.batch_size > 1 and not all(independent(self._run, request, self.batch_size) for request in self._warm_up):
            log("batches are off", logging.WARNING, why="these engines give other bits to an image beside other neighbours")
            self.batch_size = 1
        for request in self._warm_up:
            self._run(together([request] * self.batch_size))
        self._metrics.batch_size.set(self.batch_size)
        self._readiness.ready()

    def _ask_canaries(self) -> None:
        try:
            self._pipeline.check_canaries()
            self._watchdog.beat()
        except CanaryError:
            self._metrics.asked_canaries(right=False)
            raise
        self._metrics.asked_canaries(right=True)
        self._readiness.checked()

    def _draw(self, batch: Sequence[Job]) -> None:
        """Draw a batch that is filled up to its size with copies of its first image, and hand out what was asked for."""
        begun = time.perf_counter()
        self._metrics.batch([time.monotonic() - job.since for job in batch])
        filled = together([job.request for job in [*batch, *[batch[0]] * (self.batch_size - len(batch))]])
        result = self._run(filled, batch)
        self._readiness.drew(len(batch))
        seconds = (time.perf_counter() - begun) / (self.batch_size * batch[0].kind.rows)
        self.seconds_per_row += (SMOOTHING if self.seconds_per_row else 1) * (seconds - self.seconds_per_row)
        drawn = list(zip(batch, result.images, result.reports, strict=False))  # the rest fills the batch up
        for each in drawn:
            _check_owner(*each)
        for job, image, report in drawn:
            self._metrics.image(report)
            job.done(Drawn(image, report, result.execution))
        self._metrics.device_memory.set(self._pipeline.used_device_memory() or 0)

    def _run(self, request: Request, batch: Sequence[Job] = ()) -> Result:
        """One run, which tells every job of its steps, and is given up once nobody waits for any."""

        def tell(done: int, steps: int) -> None:
            self._watchdog.beat()
            if batch and not any(job.wanted for job in batch):
                raise Abandoned
            for job in batch:
                job.step(done, steps)

        self._watchdog.beat()
        result: Result = self._pipeline(**vars(request), progress=tell)
        self._watchdog.beat()
        return result

    def _refuse(self, jobs: Sequence[Job]) -> None:
        self._fail(jobs, NotReadyError(f"server: expected it to be ready, found it {self._readiness.state}"))

    @staticmethod
    def _fail(jobs: Sequence[Job], error: Exception) -> None:
        for job in jobs:
            job.fail(error)


def _check_owner(job: Job, image: Image.Image | None, report: ImageReport) -> None:
    """Raise RuntimeError for an image that is not this job's, or that no guard saw although one had to."""
    asked = job.request
    same = report.prompt == asked.prompt and asked.seed in (None, report.seed) and (image is None) == (report.image_sha256 is None)
    if not same or (report.verdict == "unguarded") != asked.unguarded:
        raise RuntimeError("an image came with another image's report")
