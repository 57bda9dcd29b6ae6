"""The server as an application of Ray Serve: the same routes, limits and queue in each replica. docs/scale_out.md"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from starlette.types import ASGIApp, Receive, Scope, Send

from engines.errors import SafeRedirError
from runtime.serving.answers import error_answer, error_of
from runtime.serving.app import app_of
from runtime.serving.errors import NotReadyError
from runtime.serving.limits import Limits
from runtime.serving.log import log, log_to_stderr
from runtime.serving.service import Service
from runtime.serving.settings import ServerSettings

BESIDE = 8  # requests that draw nothing, as /health and /metrics, and still come through a full replica
SETTINGS = ("keys", "audit_required", "log_prompts", "threads", "trusted_keys", "host")  # of `ServerSettings`, under the same names
LOOKS = 0.05  # seconds between two looks at whether engines are ready


class Arguments(BaseModel):
    """`args` of the application in a Serve config; what is said of one engine folder in `saferedir serve` holds for each here.

    engine_dirs   name → folder made by `saferedir build`; a request names one by the header serve_multiplexed_model_id
    default       the name that a request without the header means; the only one by default
    most_loaded   engine folders that a replica keeps open; the one that was asked for the longest time ago leaves
    limits, keys  files, see docs/serving.md
    audit         file of the audit's record; each replica writes its own, whose name ends in the replica's
    threads       that compute in each replica on a CPU; as many as its num_cpus
    host          127.0.0.1 refuses requests that name another host; as Serve's http_options
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    engine_dirs: dict[str, Path] = Field(min_length=1)
    default: str | None = None
    most_loaded: int = Field(default=1, ge=1)
    limits: Path | None = None
    keys: Path | None = None
    audit: Path | None = None
    audit_required: bool = False
    log_prompts: bool = False
    threads: int | None = None
    trusted_keys: tuple[Path, ...] = ()
    host: str = "127.0.0.1"

    @property
    def first(self) -> str | None:
        """What a request without a name means, if it is clear."""
        return self.default or (next(iter(self.engine_dirs)) if len(self.engine_dirs) == 1 else None)

    def settings(self, name: str, replica: str) -> ServerSettings:
        """Of one engine folder in one replica."""
        given = {field: getattr(self, field) for field in SETTINGS}
        settings = ServerSettings(engine_dir=self.engine_dirs[name], **given)
        if self.limits is not None:
            settings = replace(settings, limits=Limits.read(self.limits))
        return settings if self.audit is None else replace(settings, audit=self.audit.with_name(f"{self.audit.name}.{replica}"))


class Loaded:
    """One engine folder, open and ready."""

    def __init__(self, service: Service) -> None:
        self.service, self.app, self._open = service, app_of(service), True

    async def stop(self) -> None:
        """Answer what was accepted, and free the engines."""
        if self._open:
            self._open = False
            await self.service.stop()

    def __del__(self) -> None:
        """Ray calls it, in a thread, where another folder takes this one's place."""
        if self._open:
            asyncio.run(self.stop())


class ByEngines:
    """The ASGI application of one replica: hands each request to the engines that it names."""

    def __init__(self, arguments: Arguments) -> None:
        log_to_stderr()
        self._arguments, self._loaded = arguments, dict[str, Loaded]()
        self._name = serve.get_replica_context().replica_id.unique_id
        self._load = serve.multiplexed(_loader(self), max_num_models_per_replica=arguments.most_loaded)

    async def open(self, name: str) -> Loaded:
        """Engines that are ready, or the error that keeps them from it."""
        service = await asyncio.to_thread(Service, self._arguments.settings(name, self._name))
        service.start()
        while service.state == "starting":
            await asyncio.sleep(LOOKS)
        if service.state != "ready":
            why = service.why
            await service.stop()
            raise NotReadyError(f"{name}: expected engines that become ready, found: {why}")
        loaded = Loaded(service)
        self._loaded[name] = loaded
        return loaded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._live(receive, send)
        name = serve.get_multiplexed_model_id() or self._arguments.first
        if name not in self._arguments.engine_dirs:
            known = ", ".join(self._arguments.engine_dirs)
            refusal = error_of(
                404, "unknown_engines", f"serve_multiplexed_model_id: expected one of {known}, found another or none"
            )
            return await refusal(scope, receive, send)
        try:
            loaded: Loaded = await self._load(name)
        except (SafeRedirError, OSError) as error:
            log("engines not opened", logging.ERROR, engines=name, why=str(error))
            refused = NotReadyError(f"{name}: expected engines that can be used, found others; the operator's log says why")
            return await error_answer(refused)(scope, receive, send)
        await loaded.app(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        """The engines that requests without a name mean are opened before the replica counts as started."""
        await receive()
        try:
            if self._arguments.first is not None:
                await self._load(self._arguments.first)
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        for loaded in self._loaded.values():
            await loaded.stop()
        await send({"type": "lifespan.shutdown.complete"})


def _loader(engines: ByEngines) -> Any:
    async def load(name: str) -> Loaded:
        return await engines.open(name)

    return load


class Replica:
    """What Ray starts for each replica."""

    def __init__(self, arguments: Arguments) -> None:
        self._arguments = arguments

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return ByEngines(self._arguments)


def deployment(arguments: Arguments) -> serve.Deployment:
    """One that takes as many requests as it can draw and keep waiting; its own queue answers 429 beyond that."""
    limits = Limits() if arguments.limits is None else Limits.read(arguments.limits)
    ongoing = limits.queue_length + limits.batch_size + BESIDE
    return serve.deployment(serve.ingress(None)(Replica), name="saferedir", max_ongoing_requests=ongoing)


def application(arguments: Arguments) -> serve.Application:
    """What `import_path: runtime.serving.ray_app:application` names."""
    bound: serve.Application = deployment(arguments).bind(arguments)
    return bound
