"""What a server holds under load: throughput and waiting times, guarded and unguarded, with batches and without.

`python -m benchmarks.serving ENGINE_DIR` starts `saferedir serve` on a free port of 127.0.0.1, once for each --batch-size, and
is its only client. Capacity is measured first: as many clients as --clients, each asking again as soon as it has its answer.
Then requests come at random times (Poisson) at shares of that capacity, whether or not earlier ones were answered: a slow server
cannot slow its load down, and a request's time starts when it was due. Each load ends after --requests requests.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.suite.machine import describe, now
from benchmarks.suite.server import serving
from engines.errors import SafeRedirError
from engines.exit_status import DONE, FAILED

SHARES = (0.5, 0.8, 0.95)
PROMPTS = ("a burning blue square", "a small red star", "a large green circle", "a burning yellow triangle")
ROUTE = "/v1/images/generations"
ANSWER_SECONDS = 600.0
SEED = 18


@dataclass(frozen=True)
class Mix:
    """What is asked for: every request has one of these sizes ("WIDTHxHEIGHT") and step counts, at random."""

    sizes: tuple[str, ...]
    steps: tuple[int, ...]

    def bodies(self, count: int, unguarded: bool) -> list[dict[str, Any]]:
        """The same requests at every call, but for the guard."""
        draw = random.Random(SEED)
        extra = {"unguarded": True} if unguarded else {}
        return [
            {
                "prompt": draw.choice(PROMPTS),
                "size": draw.choice(self.sizes),
                "num_inference_steps": draw.choice(self.steps),
                "seed": seed,
                **extra,
            }
            for seed in range(count)
        ]


@dataclass(frozen=True)
class Load:
    """One load and what came of it. Times in seconds over the requests that were answered with a picture or a verdict.

    `rate` is requests a second, None where clients asked one after another; `outcomes` counts HTTP statuses, 0 for no answer;
    `throughput` is answers a second, from the first request to the last answer.
    """

    batch_size: int
    unguarded: bool
    share: float | None
    rate: float | None
    requests: int
    outcomes: dict[int, int]
    throughput: float
    p50: float | None
    p95: float | None
    p99: float | None
    load_average: float


def limits(mix: Mix, batch_size: int, queue_length: int) -> dict[str, Any]:
    """Of a server that lets everything of the mix in."""
    return {
        "sizes": mix.sizes,
        "batch_size": batch_size,
        "queue_length": queue_length,
        "unguarded": True,
        "requests_per_minute": 1_000_000,
    }


async def closed_loop(url: str, bodies: list[dict[str, Any]], clients: int) -> tuple[list[tuple[int, float]], float]:
    """Status and seconds of each request, and the seconds of all: each client asks again once it has its answer."""
    waiting, found = iter(bodies), []
    async with _client(url) as client:

        async def ask_on() -> None:
            for body in waiting:
                found.append(await _ask(client, body, time.perf_counter()))

        start = time.perf_counter()
        await asyncio.gather(*(ask_on() for _ in range(clients)))
        return found, time.perf_counter() - start


async def open_loop(url: str, bodies: list[dict[str, Any]], rate: float) -> tuple[list[tuple[int, float]], float]:
    """The same, of requests that come at Poisson times, `rate` a second, whatever the server does."""
    draw = random.Random(SEED)
    async with _client(url) as client:
        start = due = time.perf_counter()
        tasks = []
        for body in bodies:
            due += draw.expovariate(rate)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.append(asyncio.create_task(_ask(client, body, due)))
        return list(await asyncio.gather(*tasks)), time.perf_counter() - start


def _client(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=ANSWER_SECONDS, limits=httpx.Limits(max_connections=None))


async def _ask(client: httpx.AsyncClient, body: dict[str, Any], due: float) -> tuple[int, float]:
    try:
        status = (await client.post(ROUTE, json=body)).status_code
    except httpx.TransportError:
        status = 0
    return status, time.perf_counter() - due


def loads(url: str, mix: Mix, batch_size: int, requests: int, clients: int) -> Iterator[Load]:
    """Capacity, then shares of it, guarded and unguarded."""
    for unguarded in (False, True):
        bodies = mix.bodies(requests, unguarded)
        asyncio.run(closed_loop(url, bodies[: 2 * clients], clients))  # the first of each shape are slower
        full = summary(batch_size, unguarded, None, None, *asyncio.run(closed_loop(url, bodies, clients)))
        yield full
        for share in SHARES:
            rate = share * full.throughput
            yield summary(batch_size, unguarded, share, rate, *asyncio.run(open_loop(url, bodies, rate)))


def summary(
    batch_size: int, unguarded: bool, share: float | None, rate: float | None, found: list[tuple[int, float]], seconds: float
) -> Load:
    """What came of a load: `found` has the HTTP status and the seconds of each request, `seconds` those of all together."""
    times = [took for status, took in found if status in (200, 400)]  # 400: the guard withheld the picture
    p50, p95, p99 = (round(float(value), 4) for value in np.percentile(times, (50, 95, 99))) if times else (None,) * 3
    return Load(
        batch_size=batch_size,
        unguarded=unguarded,
        share=share,
        rate=rate,
        requests=len(found),
        outcomes=dict(Counter(status for status, _ in found)),
        throughput=round(len(times) / seconds, 4),
        p50=p50,
        p95=p95,
        p99=p99,
        load_average=now()["load_average"],
    )


def line(load: Load) -> str:
    """A row of the table that is printed."""
    guard = "unguarded" if load.unguarded else "guarded"
    offered = "capacity" if load.rate is None else f"{load.share:.2f} ({load.rate:.2f}/s)"
    times = "no answer" if load.p50 is None else f"{load.p50:.2f} | {load.p95:.2f} | {load.p99:.2f}"
    return f"| {load.batch_size} | {guard} | {offered} | {load.throughput:.2f} | {times} | {load.outcomes} |"


def main(argv: list[str] | None = None) -> int:
    """Exit status 0; 2 with one line on standard error."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("engine_dir", type=Path, help="made by saferedir build")
    parser.add_argument("--requests", type=int, default=200, help="of each load (default: %(default)s)")
    parser.add_argument("--clients", type=int, default=8, help="that ask at once for the capacity (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1, 4], help="one server for each (default: 1 4)")
    parser.add_argument("--sizes", nargs="+", default=["64x64", "96x64"], help="in pixels (default: 64x64 96x64)")
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 20], help="(default: 10 20)")
    parser.add_argument("--output", type=Path, default=Path("serving.json"), help="(default: %(default)s)")
    arguments = parser.parse_args(argv)
    mix, found = Mix(tuple(arguments.sizes), tuple(arguments.steps)), []
    print("| batch size | guard | offered | answers/s | p50 s | p95 s | p99 s | outcomes |\n|---|---|---|---|---|---|---|---|")
    try:
        for batch_size in arguments.batch_size:
            with serving(arguments.engine_dir, limits(mix, batch_size, queue_length=arguments.requests)) as server:
                for load in loads(server.url, mix, batch_size, arguments.requests, arguments.clients):
                    print(line(load), flush=True)
                    found.append(dataclasses.asdict(load))
    except SafeRedirError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    document = {"machine": describe(), "mix": dataclasses.asdict(mix), "loads": found}
    arguments.output.write_text(json.dumps(document, indent=1) + "\n")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
