"""A service on the demo's engines, and a real server around it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from runtime.serving.app import app_of
from runtime.serving.limits import Limits
from runtime.serving.service import Service
from runtime.serving.settings import ServerSettings


class Served(NamedTuple):
    """A server that listens: its base URL, a client of it, and the service behind it."""

    url: str
    client: httpx.Client
    service: Service


@contextmanager
def serving(app: FastAPI) -> Iterator[tuple[str, httpx.Client]]:
    """Runs an application in a thread, on a free port of 127.0.0.1, until the block is left."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        with httpx.Client(base_url=url, timeout=60) as client:
            until(lambda: server.started)
            yield url, client
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def until(happened, seconds: float = 30.0) -> None:
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


@pytest.fixture
def serve(demo_engines):
    """Returns a function that starts servers with other limits and settings, or with wrapped engines."""
    running = []

    def start(limits: Limits | None = None, wrap=lambda engine: engine, **settings) -> Served:
        settings = ServerSettings(engine_dir=demo_engines, limits=limits or Limits(), **settings)
        service = Service(settings, wrap)
        block = serving(app_of(service))
        url, client = block.__enter__()
        running.append(block)
        until(lambda: service.state != "starting")
        return Served(url, client, service)

    yield start
    for block in reversed(running):
        block.__exit__(None, None, None)


@pytest.fixture(scope="session")
def _server(demo_engines) -> Iterator[Served]:
    limits = Limits(unguarded=True, requests_per_minute=100_000)
    service = Service(ServerSettings(engine_dir=demo_engines, limits=limits, page=True))
    with serving(app_of(service)) as (url, client):
        until(lambda: service.state == "ready")
        yield Served(url, client, service)


@pytest.fixture
def server(_server) -> Served:
    """A server for the whole run, which draws unguarded pictures for those who ask."""
    return _server


@pytest.fixture
def service(_server) -> Service:
    """The service of `server`. Coroutines that await it run in any event loop."""
    return _server.service
