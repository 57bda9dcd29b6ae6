"""The service behind every route: limits, queue, the engine thread, and whether the guard can be relied on."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence

from engines.backends.contract import Engine
from engines.errors import SafeRedirError
from runtime.pipeline import GuardedPipeline
from runtime.preparation import Preparation
from runtime.report import Result
from runtime.request import Request
from runtime.samplers.schedules import SchedulerConfig
from runtime.serving.audit import AuditLog
from runtime.serving.batching import Kind
from runtime.serving.bounds import bounded, check_limits
from runtime.serving.errors import DeadlineError, NotReadyError, status_and_code
from runtime.serving.jobs import Drawn, Job
from runtime.serving.keys import ApiKeys
from runtime.serving.log import log
from runtime.serving.metrics import Metrics
from runtime.serving.prompt_hash import BYTES, key_file, prompt_hash, prompt_key
from runtime.serving.rate_limit import RateLimit
from runtime.serving.readiness import Readiness
from runtime.serving.request_queue import RequestQueue
from runtime.serving.settings import ServerSettings
from runtime.serving.single_images import together
from runtime.serving.start_checks import warm_up
from runtime.serving.worker import Worker

Progress = Callable[[int, int], None]


class Service:
    """Draws for many callers on one pipeline, which is the service's own.

    `manifest` and `limits` say what may be asked for, `keys` who may ask; `audit` records every image, if that is wanted. `state`
    is "starting", "ready", "draining" or "failed"; `why` says why it is not ready. Only a ready service draws. Engines are verified
    here; `start` does the rest.

    Args:
        wrap: see `GuardedPipeline`.

    Raises:
        SafeRedirError: the engines cannot be used, or the settings do not fit them.
    """

    def __init__(self, settings: ServerSettings, wrap: Callable[[Engine], Engine] = lambda engine: engine) -> None:
        self.settings, self.limits = settings, settings.limits
        self.keys, self.metrics = ApiKeys(settings.keys), Metrics()
        self._prompt_key = prompt_key(key_file(settings.audit)) if settings.audit else secrets.token_bytes(BYTES)
        self.audit = AuditLog(settings.audit, self._prompt_key, required=settings.audit_required) if settings.audit else None
        if (audit := self.audit) is not None:
            self.metrics.audit_records.set_function(lambda: audit.number)
            self.metrics.audit_lost.set_function(lambda: audit.failures)
        self._rates = RateLimit(self.limits.requests_per_minute)
        self._pipeline = GuardedPipeline(
            settings.engine_dir,
            trusted_keys=settings.trusted_keys,
            threads=settings.threads,
            wrap=lambda engine: self.metrics.timed(wrap(engine)),
        )
        self.manifest = self._pipeline.manifest
        self.model = settings.engine_dir.resolve().name  # what clients call it
        check_limits(self.limits, self.manifest)
        self._scheduler = SchedulerConfig.read(self.manifest.scheduler)
        self.metrics.describe(self.model, self.manifest, self._pipeline.device)
        self._readiness = Readiness(self.limits.canary_images, self.limits.canary_seconds, self.metrics.state.state)
        self._queue = RequestQueue(self.limits.queue_length, lambda: self._worker.seconds_per_row)
        self.metrics.queue_images.set_function(lambda: len(self._queue))
        warm = warm_up(self.limits, self.manifest)
        self._worker = Worker(
            self._pipeline,
            self._queue,
            self._readiness,
            self.metrics,
            warm_up=warm,
            batch_size=self.limits.batch_size,
            hang_seconds=self.limits.hang_seconds,
        )
        for request in warm:
            self._kind(request)

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

    @property
    def hangs(self) -> bool:
        """Whether a call of the engines was given up and has not returned. Then only the process's end frees them."""
        return self._worker.hangs

    def start(self) -> None:
        """Let the engine thread make sure that everything works, and then draw."""
        self._worker.start()

    def start_again(self) -> None:
        """After a failure, let the engine thread make sure again; for operators.

        Raises:
            NotReadyError: the engine thread has ended, or hangs.
        """
        if not self._worker.is_alive():
            raise NotReadyError("server: expected its engine thread, found that it has ended; restart the server")
        if self.hangs:
            raise NotReadyError("server: expected its engine thread, found that a call in it has not returned; restart the server")
        self._readiness.begin()

    async def stop(self) -> None:
        """Accept nothing more, answer what was accepted, and free the engines, unless a call of theirs hangs."""
        self._readiness.drain()
        self._worker.stop()
        await asyncio.to_thread(self._worker.wait)
        if not self.hangs:
            self._pipeline.close()
        if self.audit is not None:
            self.audit.close()

    async def generate(
        self, request: Request, *, key: str = "", progress: Progress | None = None, since: float | None = None
    ) -> Result:
        """The images of a request and a report for each; `key` is the name of the caller's API key.

        The deadline counts from `since`, a time of `time.monotonic`, or from now. Cancelling the awaiting task takes the images out
        of the queue. `progress(done, steps)` is called in the event loop, over the steps of all images.

        Raises:
            InputError, ForbiddenError: this cannot or may not be drawn.
            NotReadyError, QueueFullError, RateLimitError, DeadlineError: not now.
            NonFiniteError: a network failed; nothing of the request is delivered.
            AuditError: a record that is required could not be written; nothing of the request is delivered.
        """
        begun, code = time.monotonic(), "internal_error"
        try:
            result = await self._generate(request, key, progress, begun if since is None else since)
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
            prompts = [*dict.fromkeys(request.prompts)]
            shown = prompts if self.settings.log_prompts else [prompt_hash(prompt, self._prompt_key) for prompt in prompts]
            log("request", code=code, key=key, prompts=shown, seconds=round(seconds, 3))

    async def _generate(self, request: Request, key: str, progress: Progress | None, since: float) -> Result:
        self._readiness.require()
        if self.audit is not None:
            await asyncio.to_thread(self.audit.check)
        self._rates.count(key)
        images = bounded(request, self.limits, self.manifest)
        kinds = [self._kind(image) for image in images]
        loop, told = asyncio.get_running_loop(), _told(progress, [kind.rows for kind in kinds])
        jobs = [Job(image, kind, loop.create_future(), tell) for image, kind, tell in zip(images, kinds, told, strict=True)]
        self._queue.put(jobs)
        drawn = await self._wait(jobs, since)
        if self.audit is not None:
            for each in drawn:
                await asyncio.to_thread(self.audit.write, each.report, key=key)
        return Result([each.image for each in drawn], [each.report for each in drawn], drawn[0].execution)

    def _kind(self, image: Request) -> Kind:
        """Raises InputError for an image that these engines cannot draw in a batch of this server's size."""
        return Kind.of(Preparation.of(together([image] * self.batch_size), self.manifest, self._scheduler))

    async def _wait(self, jobs: Sequence[Job], since: float) -> list[Drawn]:
        """Every image, or the first error; what still waits then leaves the queue."""
        gathered = asyncio.gather(*(job.future for job in jobs))
        gathered.add_done_callback(lambda done: done.cancelled() or done.exception())  # seen, also where the caller has left
        try:
            return await asyncio.wait_for(gathered, since + self.limits.deadline_seconds - time.monotonic())
        except asyncio.TimeoutError:
            raise DeadlineError(f"request: expected its end within {self.limits.deadline_seconds} s, found it unfinished") from None
        finally:
            self._queue.remove(jobs)
            for job in jobs:
                if not job.future.cancel() and not job.future.cancelled():
                    job.future.exception()  # seen, also where another image's error was raised


def _told(progress: Progress | None, rows: Sequence[int]) -> list[Progress | None]:
    """For each image what is told of its rows: together they tell of all images."""
    if progress is None:
        return [None] * len(rows)
    done = [0] * len(rows)

    def of_image(place: int) -> Progress:
        def tell(rows_done: int, _: int) -> None:
            done[place] = rows_done
            progress(sum(done), sum(rows))

        return tell

    return [of_image(place) for place in range(len(rows))]
