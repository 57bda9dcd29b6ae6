"""The service behind every route: limits, queue, the engine thread, and whether the guard can be relied on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from engines.backends.contract import Engine
from engines.errors import SafeRedirError
from runtime.pipeline import GuardedPipeline
from runtime.preparation import Preparation
from runtime.report import Result
from runtime.request import Request
from runtime.samplers.schedules import SchedulerConfig
from runtime.serving.batching import Kind
from runtime.serving.bounds import bounded, check_limits
from runtime.serving.errors import DeadlineError, status_and_code
from runtime.serving.jobs import Drawn, Job
from runtime.serving.keys import ApiKeys
from runtime.serving.log import log, prompt_hash
from runtime.serving.metrics import Metrics
from runtime.serving.rate_limit import RateLimit
from runtime.serving.readiness import Readiness
from runtime.serving.request_queue import RequestQueue
from runtime.serving.settings import ServerSettings
from runtime.serving.start_checks import warm_up
from runtime.serving.worker import Worker

Progress = Callable[[int, int], None]


class Service:
    """Draws for many callers on one pipeline, which is the service's own.

    `manifest` and `limits` say what may be asked for, `keys` who may ask. `state` is "starting", "ready", "draining" or "failed";
    `why` says why it is not ready. Only a ready service draws. Engines are verified here; `start` does the rest.

    Args:
        wrap: see `GuardedPipeline`.

    Raises:
        SafeRedirError: the engines cannot be used, or the settings do not fit them.
    """

    def __init__(self, settings: ServerSettings, wrap: Callable[[Engine], Engine] = lambda engine: engine) -> None:
        self.settings, self.limits = settings, settings.limits
        self.keys, self.metrics = ApiKeys(settings.keys), Metrics()
        self._rates = RateLimit(self.limits.requests_per_minute)
        self._pipeline = GuardedPipeline(
            settings.engine_dir, trusted_keys=settings.trusted_keys, wrap=lambda engine: self.metrics.timed(wrap(engine))
        )
        self.manifest = self._pipeline.manifest
        check_limits(self.limits, self.manifest)
        self._scheduler = SchedulerConfig.read(self.manifest.scheduler)
        self._readiness = Readiness(self.limits.canary_images, self.limits.canary_seconds, self.metrics.state.state)
        self._queue = RequestQueue(self.limits.queue_length, lambda: self._worker.seconds_per_row)
        self.metrics.queue_images.set_function(lambda: len(self._queue))
        self._worker = Worker(
            self._pipeline,
            self._queue,
            self._readiness,
            self.metrics,
            warm_up=warm_up(self.limits, self.manifest),
            batch_size=self.limits.batch_size,
        )

    @property
    def state(self) -> str:
        return self._readiness.state

    @property
    def why(self) -> str:
        return self._readiness.why

    @property
    def batch_size(self) -> int:
        """Images of every batch."""
        return self._worker.batch_size

    def start(self) -> None:
        """Let the engine thread make sure that everything works, and then draw."""
        self._worker.start()

    def start_again(self) -> None:
        """After a failure, let the engine thread make sure again; for operators."""
        self._readiness.begin()

    async def stop(self) -> None:
        """Accept nothing more, answer what was accepted, and free the engines."""
        self._readiness.drain()
        self._worker.stop()
        await asyncio.to_thread(self._worker.join)
        self._pipeline.close()

    async def generate(self, request: Request, *, key: str = "", progress: Progress | None = None) -> Result:
        """The images of a request and a report for each; `key` is the name of the caller's API key.

        Cancelling the awaiting task takes the images out of the queue. `progress(done, steps)` is called in the event loop, over
        the steps of all images.

        Raises:
            InputError, ForbiddenError: this cannot or may not be drawn.
            NotReadyError, QueueFullError, RateLimitError, DeadlineError: not now.
            NonFiniteError: a network failed; nothing of the request is delivered.
        """
        begun, code = time.monotonic(), "internal_error"
        try:
            result = await self._generate(request, key, progress)
            code = "ok"
            return result
        except asyncio.CancelledError:
            code = "cancelled"
            raise
        except SafeRedirError as error:
            code = status_and_code(error)[1]
            raise
        finally:
            seconds = time.monotonic() - begun
            self.metrics.request(code, seconds)
            shown = list if self.settings.log_prompts else _hashes
            log("request", code=code, key=key, prompts=shown(request.prompts), seconds=round(seconds, 3))

    async def _generate(self, request: Request, key: str, progress: Progress | None) -> Result:
        self._readiness.require()
        self._rates.count(key)
        images = bounded(request, self.limits, self.manifest)
        kinds = [Kind.of(Preparation.of(image, self.manifest, self._scheduler)) for image in images]
        loop, told = asyncio.get_running_loop(), _told(progress, len(images))
        jobs = [Job(image, kind, loop.create_future(), tell) for image, kind, tell in zip(images, kinds, told, strict=True)]
        self._queue.put(jobs)
        drawn = await self._wait(jobs)
        return Result([each.image for each in drawn], [each.report for each in drawn], drawn[0].execution)

    async def _wait(self, jobs: Sequence[Job]) -> list[Drawn]:
        """Every image, or the first error; what still waits then leaves the queue."""
        try:
            return await asyncio.wait_for(asyncio.gather(*(job.future for job in jobs)), self.limits.deadline_seconds)
        except asyncio.TimeoutError:
            raise DeadlineError(f"request: expected its end within {self.limits.deadline_seconds} s, found it unfinished") from None
        finally:
            self._queue.remove(jobs)
            for job in jobs:
                if not job.future.cancel() and not job.future.cancelled():
                    job.future.exception()  # seen, also where another image's error was raised


def _hashes(prompts: Sequence[str]) -> list[str]:
    return [prompt_hash(prompt) for prompt in prompts]


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
