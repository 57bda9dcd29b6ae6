"""The HTTP application: every router, behind API keys and a limit of bodies."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse

from engines import __version__
from engines.errors import SafeRedirError
from runtime.serving.answers import error_answer, error_of
from runtime.serving.middleware import Counted, Intake, LastAnswer
from runtime.serving.routes import a1111, openai_images, operations, page
from runtime.serving.service import Service

OPEN = (operations.open_router, page.router)  # without a key
ROUTERS = (operations.router, openai_images.router, a1111.router)
LOCAL_NAMES = ["127.0.0.1", "localhost", "[::1]"]


def app_of(service: Service) -> FastAPI:
    """The application around a service, which starts and stops with it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await service.stop()

    async def known(request: HttpRequest) -> None:
        """Sets `request.state.key`, the name of the caller's key, or raises AuthenticationError."""
        request.state.key = service.keys.name_of(request.headers)

    app = FastAPI(title="saferedir", version=__version__, lifespan=lifespan)
    for router in OPEN:
        app.include_router(router(service))
    for router in ROUTERS:
        app.include_router(router(service), dependencies=[Depends(known)])
    app.add_exception_handler(SafeRedirError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_middleware(LastAnswer)
    app.add_middleware(Intake, most=service.limits.most_body_bytes)
    if is_local(service.settings.host) and not service.keys.required:  # else a page that rebinds its name to here reads answers
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=LOCAL_NAMES)
    app.add_middleware(Counted, metrics=service.metrics)  # the last that is added sees a request first
    return app


def is_local(host: str) -> bool:
    """Whether only this machine can reach it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _refused(request: HttpRequest, error: Exception) -> JSONResponse:
    return error_answer(error)


async def _invalid(request: HttpRequest, error: Exception) -> JSONResponse:
    """Where a body is wrong, and how; never what was found, which may be a prompt."""
    assert isinstance(error, RequestValidationError)
    faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['type']}" for fault in error.errors()]
    return error_of(400, "invalid_request", "; ".join(faults))


async def _http(request: HttpRequest, error: Exception) -> JSONResponse:
    """No such path, or no such method."""
    assert isinstance(error, HTTPException)
    return error_of(error.status_code, "invalid_request", str(error.detail), dict(error.headers or {}))
