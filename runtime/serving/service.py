"""The service behind every route: limits, queue, the engine thread, and whether the guard can be relied on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from runtime.pipeline import GuardedPipeline
from runtime.preparation import Preparation
from runtime.report import Result
from runtime.request import Request
from runtime.samplers.schedules import SchedulerConfig
from runtime.serving.batching import Kind
from runtime.serving.bounds import bounded, check_limits
from runtime.serving.errors import DeadlineError, NotReadyError
from runtime.serving.jobs import Drawn, Job
from runtime.serving.request_queue import RequestQueue
from runtime.serving.settings import ServerSettings
from runtime.serving.worker import Worker

Progress = Callable[[int, int], None]


class Service:
    """Draws for many callers on one pipeline, which from now on is the service's own.

    `manifest` and `limits` say what may be asked for. `state` is "starting", "ready", "draining" or "failed"; `why` says why it
    is not ready. Only a ready service draws.

    Raises:
        InputError: limits that these engines cannot keep.
    """

    def __init__(self, pipeline: GuardedPipeline, settings: ServerSettings) -> None:
        check_limits(settings.limits, pipeline.manifest)
        self.manifest, self.limits, self.settings = pipeline.manifest, settings.limits, settings
        self._scheduler = SchedulerConfig.read(self.manifest.scheduler)
        self.state, self.why = "starting", "no picture was drawn yet"
        self.queue = RequestQueue(self.limits.queue_length, lambda: self._worker.seconds_per_image)
        self._worker = Worker(pipeline, self.queue, self.limits.batch_size, self.fail)

    def start(self) -> None:
        """Let the engine thread run."""
        self._worker.start()
        self.state, self.why = "ready", ""

    def fail(self, why: str) -> None:
        """Draw nothing any more until an operator acts."""
        self.state, self.why = "failed", why

    async def stop(self) -> None:
        """Answer what was accepted, accept nothing more, and end the engine thread."""
        self.state, self.why = "draining", "the server is stopping"
        self._worker.stop()
        await asyncio.to_thread(self._worker.join)

    async def generate(self, request: Request, *, key: str = "", progress: Progress | None = None) -> Result:
        """The images of a request and a report for each; `key` is the name of the caller's API key.

        Cancelling the awaiting task takes the images out of the queue. `progress(done, steps)` is called in the event loop, over
        the steps of all images.

        Raises:
            InputError, ForbiddenError: this cannot or may not be drawn.
            NotReadyError, QueueFullError, DeadlineError: not now.
            NonFiniteError: a network failed; nothing of the request is delivered.
        """
        self._require_ready()
        images = bounded(request, self.limits, self.manifest)
        kinds = [Kind.of(Preparation.of(image, self.manifest, self._scheduler)) for image in images]
        loop, told = asyncio.get_running_loop(), _told(progress, len(images))
        jobs = [Job(*pair, loop.create_future(), told[place]) for place, pair in enumerate(zip(images, kinds, strict=True))]
        self.queue.put(jobs)
        drawn = await self._wait(jobs)
        return Result([each.image for each in drawn], [each.report for each in drawn], drawn[0].execution)

    def _require_ready(self) -> None:
        if self.state != "ready":
            raise NotReadyError(f"server: expected it to be ready, found it {self.state}: {self.why}")

    async def _wait(self, jobs: Sequence[Job]) -> list[Drawn]:
        """Every image, or the first error; what is still waiting then leaves the queue."""
        gathered = asyncio.gather(*(job.future for job in jobs))
        try:
            return await asyncio.wait_for(gathered, self.limits.deadline_seconds)
        except asyncio.TimeoutError:
            raise DeadlineError(f"request: expected within {self.limits.deadline_seconds} s, found it unfinished") from None
        finally:
            self.queue.remove(jobs)
            for job in jobs:
                if not job.future.cancel() and not job.future.cancelled():
                    job.future.exception()  # seen, also where another image's error was raised


def _told(progress: Progress | None, images: int) -> list[Progress | None]:
    """For each image what is told of its steps: together they tell of all images."""
    if progress is None:
        return [None] * images
    done = [0] * images

    def of_image(place: int) -> Progress:
        def tell(steps_done: int, steps: int) -> None:
            done[place] = steps_done
            progress(sum(done), steps * images)

        return tell

    return [of_image(place) for place in range(images)]
