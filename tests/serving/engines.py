"""Engines that tests hold up or let fail, and calls of a service."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import numpy as np

from runtime import Request
from runtime.serving.service import Service


class Held:
    """For `wrap`: a network waits while `go` is not set; `calls` counts its calls, each of which begins with `on_call`."""

    def __init__(self, network: str = "unet") -> None:
        self.go, self.calls = threading.Event(), 0
        self.on_call: Callable[[], object] = lambda: None
        self._network = network
        self.go.set()

    def __call__(self, engine):
        return self._Engine(engine, self) if engine.spec.name == self._network else engine

    class _Engine:
        def __init__(self, engine, held: Held) -> None:
            self.spec, self._engine, self._held = engine.spec, engine, held

        def bind(self, **tensors):
            run = self._engine.bind(**tensors)

            def call():
                self._held.calls += 1
                self._held.on_call()
                self._held.go.wait()
                run()

            return call


class Broken:
    """For `wrap`: once `how` is set, it changes an output of a network after each call, or raises."""

    def __init__(self, network: str, output: str) -> None:
        self.how: Callable[[np.ndarray], None] | None = None
        self._network, self._output = network, output

    def __call__(self, engine):
        return self._Engine(engine, self) if engine.spec.name == self._network else engine

    class _Engine:
        def __init__(self, engine, broken: Broken) -> None:
            self.spec, self._engine, self._broken = engine.spec, engine, broken

        def bind(self, **tensors):
            run, output = self._engine.bind(**tensors), tensors[self._broken._output]

            def call():
                run()
                if self._broken.how is not None:
                    self._broken.how(output)

            return call


def draw(service: Service, *prompts: str, **options):
    """The result of a request, from a loop of its own."""
    options = {"num_inference_steps": 4, "seed": 0, **options}
    return asyncio.run(service.generate(Request(list(prompts), **options)))
