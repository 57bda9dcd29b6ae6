"""The HTTP application: every router, API keys, limits of bodies, and errors in one form."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse

from engines import __version__
from runtime.pipeline import GuardedPipeline
from runtime.serving.errors import RetryError, public_text, status_and_code
from runtime.serving.routes import operations
from runtime.serving.service import Service
from runtime.serving.settings import ServerSettings

ROUTERS = (operations.router,)


def create_app(settings: ServerSettings) -> FastAPI:
    """The application of a server. Engines are verified here, before anything listens.

    Raises:
        SafeRedirError: the engines or the settings cannot be used.
    """
    return app_of(Service(GuardedPipeline(settings.engine_dir, trusted_keys=settings.trusted_keys), settings))


def app_of(service: Service) -> FastAPI:
    """The application around a service, which starts and stops with it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await service.stop()

    app = FastAPI(title="saferedir", version=__version__, lifespan=lifespan)
    for router in ROUTERS:
        app.include_router(router(service))
    app.add_exception_handler(Exception, _answer)
    return app


async def _answer(request: HttpRequest, error: Exception) -> JSONResponse:
    """Any error, in the form that OpenAI's API has."""
    status, code = status_and_code(error)
    headers = {"Retry-After": str(error.retry_after)} if isinstance(error, RetryError) else {}
    return JSONResponse({"error": {"message": public_text(error), "type": code, "param": None, "code": code}}, status, headers)
