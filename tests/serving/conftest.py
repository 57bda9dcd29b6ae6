"""A service on the demo's engines, and real servers around it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import uvicorn
from fastapi import APIRouter, Body

from runtime import Request
from runtime.serving.app import app_of
from runtime.serving.limits import Limits
from runtime.serving.service import Service
from runtime.serving.settings import ServerSettings

CHROMIUM = Path("/usr/bin/chromium")  # Debian's
DESK = {"width": 1280, "height": 900}


class Served(NamedTuple):
    """A server that listens: its base URL, a client of it, and the service behind it."""

    url: str
    client: httpx.Client
    service: Service


def plain_router(service: Service) -> APIRouter:
    """POST /draw: the fields of a `Request`, and the reports in return. For tests of what no API's form is needed for."""
    routes = APIRouter()

    @routes.post("/draw")
    async def draw(fields: dict[str, Any] = Body()) -> list[str]:  # noqa: B008
        return [report.verdict for report in (await service.generate(Request(**fields))).reports]

    return routes


@contextmanager
def serving(service: Service) -> Iterator[Served]:
    """Runs a server in a thread, on a free port of 127.0.0.1, until the block is left."""
    app = app_of(service)
    app.include_router(plain_router(service))
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        with httpx.Client(base_url=url, timeout=60) as client:
            until(lambda: server.started and service.state != "starting")
            yield Served(url, client, service)
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def until(happened, seconds: float = 60.0) -> None:
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


@pytest.fixture
def serve(demo_engines):
    """Returns a function that starts servers with other limits and settings, or with wrapped engines."""
    with ExitStack() as running:

        def start(limits: Limits | None = None, wrap=lambda engine: engine, **settings) -> Served:
            chosen = ServerSettings(engine_dir=demo_engines, limits=limits or Limits(deadline_seconds=20.0), **settings)
            return running.enter_context(serving(Service(chosen, wrap)))

        yield start


@pytest.fixture(scope="session")
def _server(demo_engines) -> Iterator[Served]:
    limits = Limits(unguarded=True, requests_per_minute=100_000)
    with serving(Service(ServerSettings(engine_dir=demo_engines, limits=limits, page=True))) as served:
        yield served


@pytest.fixture
def server(_server) -> Served:
    """A server for the whole run, which draws unguarded pictures for those who ask."""
    return _server


@pytest.fixture
def service(_server) -> Service:
    """The service of `server`. Coroutines that await it run in any event loop."""
    return _server.service


@pytest.fixture(scope="module")  # while it is open, no other test of the process can call asyncio.run
def browser():
    """Debian's chromium, without a window."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"no {CHROMIUM}; apt-get install chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, server):
    """Opens the page of the server, whose offer `intercept` can change; at the end, nothing may have failed in it, and nothing was
    asked of any other server."""
    contexts, requests, failures = [], [], []

    def open_page(intercept=None, **options):
        context = browser.new_context(**{"viewport": DESK, **options})
        page = context.new_page()
        if intercept is not None:
            page.route("**/v1/models", intercept)
        page.set_default_timeout(20_000)
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: failures.append(str(error)))
        contexts.append(context)
        page.goto(server.url)
        page.locator("#generate:enabled, #key:visible").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not failures
    assert not [url for url in requests if not url.startswith((server.url, "blob:", "data:"))]
