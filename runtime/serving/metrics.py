"""Metrics for Prometheus: what was asked for, what the guard found, and where the time went."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Enum,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from engines.backends.contract import Array, Engine
from engines.manifest import Manifest
from runtime.report import GuardReport, ImageReport
from runtime.serving.readiness import STATES

PROBABILITIES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
BATCHES = (1, 2, 4, 8, 16)
SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0)


class TimedEngine:
    """An engine whose calls are counted and timed."""

    def __init__(self, engine: Engine, metrics: Metrics) -> None:
        self.spec, self._engine = engine.spec, engine
        self._calls = metrics.network_calls.labels(engine.spec.name)
        self._seconds = metrics.network_seconds.labels(engine.spec.name)

    def bind(self, **tensors: Array) -> Callable[[], None]:
        """See `engines.backends.contract.Engine.bind`. On a GPU the time is that of the launch."""
        call = self._engine.bind(**tensors)

        def timed() -> None:
            begun = time.perf_counter()
            call()
            self._seconds.inc(time.perf_counter() - begun)
            self._calls.inc()

        return timed


class Metrics:
    """All metrics of one server, in a registry of their own. `docs/serving.md` lists them."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        own: dict[str, Any] = {"registry": self._registry, "namespace": "saferedir"}
        of_concept: dict[str, Any] = {**own, "labelnames": ["concept"]}
        of_network: dict[str, Any] = {**own, "labelnames": ["network"]}
        self.engines = Info("engines", "The engines and the guard that serve", **own)
        self.state = Enum("state", "State of the server", states=STATES, **own)
        self.requests = Counter("requests", "Requests for pictures, by the code of their error, or ok", ["code"], **own)
        self.request_seconds = Histogram("request_seconds", "From arrival to answer", buckets=SECONDS, **own)
        self.http_responses = Counter("http_responses", "Answers of every path, by HTTP status", ["status"], **own)
        self.images = Counter("images", "Images, by verdict", ["verdict"], **own)
        self.withheld = Counter("images_withheld", "Images that were withheld", **own)
        self.found = Counter("concept_images", "Images, by what the guard found of a concept", ["concept", "found"], **own)
        self.checks = Counter("guard_checks", "Steps at which the guard looked", **of_concept)
        self.redirected = Counter("redirected_steps", "Steps that saw a redirected prompt", **of_concept)
        self.p_unsafe = Histogram("p_unsafe", "Probability of unsafe, of each check", buckets=PROBABILITIES, **of_concept)
        self.network_calls = Counter("network_calls", "Calls of a network", **of_network)
        self.network_seconds = Counter("network_seconds", "Seconds in a network", **of_network)
        self.queue_images = Gauge("queue_images", "Images that wait", **own)
        self.queue_seconds = Histogram("queue_wait_seconds", "Time that an image waited", buckets=SECONDS, **own)
        self.batch_images = Histogram("batch_images", "Images of a batch that were asked for", buckets=BATCHES, **own)
        self.batch_size = Gauge("batch_size", "Images of a batch, with those that fill it up", **own)
        self.canaries = Counter("canary_checks", "Checks of all canaries, by result", ["result"], **own)
        self.canaries_passed = Gauge("canary_last_pass_timestamp_seconds", "When canaries were last judged rightly", **own)
        self.hangs = Counter("engine_hangs", "Calls of the engines that were given up", **own)
        self.audit_records = Gauge("audit_records", "Number of the audit's last record", **own)
        self.audit_lost = Gauge("audit_lost_records", "Records that could not be written", **own)
        self.device_memory = Gauge("device_memory_bytes", "Memory of the GPU in use; 0 on a CPU", **own)

    def timed(self, engine: Engine) -> Engine:
        """For `GuardedPipeline(wrap=…)`."""
        return TimedEngine(engine, self)

    def describe(self, model: str, manifest: Manifest, device: str) -> None:
        """What serves."""
        guards = ",".join(guard.digest for guard in manifest.guards)
        concepts = ",".join(guard.concept for guard in manifest.guards)
        described = {"model": model, "backend": manifest.backend, "precision": manifest.precision}
        self.engines.info({**described, "device": device, "concepts": concepts, "guard_digests": guards})

    def request(self, code: str, seconds: float) -> None:
        """A request was answered."""
        self.requests.labels(code).inc()
        self.request_seconds.observe(seconds)

    def batch(self, waits: Sequence[float]) -> None:
        """A batch begins, with the seconds that each image has waited."""
        self.batch_images.observe(len(waits))
        for wait in waits:
            self.queue_seconds.observe(wait)

    def image(self, report: ImageReport) -> None:
        """An image was drawn, or withheld."""
        self.images.labels(report.verdict).inc()
        if report.image_sha256 is None:
            self.withheld.inc()
        for guard in report.guards:
            self._guard(guard)

    def asked_canaries(self, right: bool) -> None:
        """All canaries were asked."""
        self.canaries.labels("pass" if right else "fail").inc()
        if right:
            self.canaries_passed.set_to_current_time()

    def exposition(self) -> bytes:
        """Prometheus's text format."""
        return generate_latest(self._registry)

    def _guard(self, guard: GuardReport) -> None:
        found = "off" if guard.off else "unsafe" if guard.unsafe_steps or guard.still_unsafe else "safe"
        self.found.labels(guard.concept, found).inc()
        self.checks.labels(guard.concept).inc(sum(guard.checked))
        self.redirected.labels(guard.concept).inc(len(guard.redirected_steps))
        for p_unsafe in guard.p_unsafe:
            if p_unsafe is not None:
                self.p_unsafe.labels(guard.concept).observe(p_unsafe)
