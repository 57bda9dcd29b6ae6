"""What a server holds under load: throughput and waiting times, guarded and unguarded, with batches and without.

`python -m benchmarks.serving ENGINE_DIR` starts `saferedir serve` on a free port of 127.0.0.1, once for each --batch-size, and
is its only client. Capacity is measured first: as many clients as --clients, each asking again as soon as it has its answer; in
turns with the guard and without, as everything here. Then requests come at random times (Poisson) at shares of the guarded
capacity, the same for both, whether or not earlier ones were answered: a slow server cannot slow its load down, and a request's
time starts when it was due. Each load ends after --requests requests.

`--replicas 1 2` measures Ray's replicas (docs/scale_out.md), each on one core, in place of `saferedir serve`.
`python -m benchmarks.suite.serving_page` writes the page of the results.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import itertools
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.suite.machine import describe, now
from benchmarks.suite.replicas import replicated
from benchmarks.suite.server import serving
from engines.errors import InputError, SafeRedirError
from engines.exit_status import DONE, FAILED
from engines.manifest import Manifest

SHARES = (0.5, 0.8, 0.95)
PROMPTS = ("a burning blue square", "a small red star", "a large green circle", "a burning yellow triangle")
ROUTE = "/v1/images/generations"
ANSWER_SECONDS = 600.0
SEED = 18
DRAWN, WITHHELD = "drawn", "withheld"
HEADER = "| replicas | batch size | guard | offered | answers/s | p50 s | p95 s | p99 s | outcomes |"


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

    `replicas` and `batch_size` as in `Deployment`; `rate` is requests a second, None for the capacity, and `share` what part of the
    guarded capacity it is; `outcomes` counts pictures drawn and withheld, and the HTTP statuses of what was refused; `throughput`
    is answers a second, from the first request to the last answer.
    """

    replicas: int
    batch_size: int
    unguarded: bool
    share: float | None
    rate: float | None
    requests: int
    outcomes: dict[str, int]
    throughput: float
    p50: float | None
    p95: float | None
    p99: float | None
    load_average: float


@dataclass(frozen=True)
class Answers:
    """Outcome and seconds of each request, and the seconds of all together."""

    found: list[tuple[str, float]]
    seconds: float


def limits(mix: Mix, batch_size: int, queue_length: int) -> dict[str, Any]:
    """Of a server that lets everything of the mix in."""
    return {
        "sizes": mix.sizes,
        "batch_size": batch_size,
        "queue_length": queue_length,
        "unguarded": True,
        "requests_per_minute": 1_000_000,
    }


async def closed_loop(client: httpx.AsyncClient, bodies: list[dict[str, Any]], clients: int) -> Answers:
    """`clients` ask at once, each again as soon as it has its answer."""
    waiting, found = iter(bodies), []

    async def ask_on() -> None:
        for body in waiting:
            found.append(await _ask(client, body, time.perf_counter()))

    start = time.perf_counter()
    await asyncio.gather(*(ask_on() for _ in range(clients)))
    return Answers(found, time.perf_counter() - start)


async def open_loop(client: httpx.AsyncClient, bodies: list[dict[str, Any]], rate: float) -> Answers:
    """Requests come at Poisson times, `rate` a second, whatever the server does."""
    draw, tasks = random.Random(SEED), []
    start = due = time.perf_counter()
    for body in bodies:
        due += draw.expovariate(rate)
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(_ask(client, body, due)))
    return Answers(list(await asyncio.gather(*tasks)), time.perf_counter() - start)


async def _ask(client: httpx.AsyncClient, body: dict[str, Any], due: float) -> tuple[str, float]:
    try:
        outcome = _outcome(await client.post(ROUTE, json=body))
    except httpx.TransportError:
        outcome = "no answer"
    return outcome, time.perf_counter() - due


def _outcome(answer: httpx.Response) -> str:
    if answer.status_code == 200:
        return DRAWN
    return WITHHELD if "moderation_blocked" in answer.text else str(answer.status_code)


@dataclass(frozen=True)
class Deployment:
    """What is measured: so many replicas of Ray Serve, or for 0 `saferedir serve`."""

    url: str
    replicas: int
    batch_size: int


async def loads(deployment: Deployment, mix: Mix, requests: int, clients: int) -> list[Load]:
    """Capacity, twice with the guard and twice without, then shares of the guarded one for both. Each is printed when done."""
    done: list[Load] = []
    bodies = {unguarded: mix.bodies(requests, unguarded) for unguarded in (False, True)}
    async with httpx.AsyncClient(
        base_url=deployment.url, timeout=ANSWER_SECONDS, limits=httpx.Limits(max_connections=None)
    ) as client:
        await closed_loop(client, bodies[False][: 2 * clients], clients)  # the first of each shape are slower
        for unguarded in (False, True, True, False):
            done.append(summary(deployment, unguarded, None, None, await closed_loop(client, bodies[unguarded], clients)))
            print(line(done[-1]), flush=True)
            if not done[-1].throughput:
                raise InputError(f"server: expected pictures, found {done[-1].outcomes}")
        capacity = (done[0].throughput + done[3].throughput) / 2
        for share in SHARES:
            for unguarded in (False, True):
                answers = await open_loop(client, bodies[unguarded], share * capacity)
                done.append(summary(deployment, unguarded, share, share * capacity, answers))
                print(line(done[-1]), flush=True)
    return done


def summary(deployment: Deployment, unguarded: bool, share: float | None, rate: float | None, answers: Answers) -> Load:
    """What came of a load."""
    times = [took for outcome, took in answers.found if outcome in (DRAWN, WITHHELD)]
    p50, p95, p99 = (round(float(value), 4) for value in np.percentile(times, (50, 95, 99))) if times else (None,) * 3
    return Load(
        replicas=deployment.replicas,
        batch_size=deployment.batch_size,
        unguarded=unguarded,
        share=share,
        rate=rate,
        requests=len(answers.found),
        outcomes=dict(Counter(outcome for outcome, _ in answers.found)),
        throughput=round(len(times) / answers.seconds, 4),
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
    return f"| {load.replicas} | {load.batch_size} | {guard} | {offered} | {load.throughput:.2f} | {times} | {load.outcomes} |"


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    result = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    result.add_argument("engine_dir", type=Path, help="made by saferedir build")
    result.add_argument("--requests", type=int, default=200, help="of each load (default: %(default)s)")
    result.add_argument("--clients", type=int, default=8, help="that ask at once for the capacity (default: %(default)s)")
    result.add_argument("--batch-size", type=int, nargs="+", default=[1, 4], help="one server for each (default: 1 4)")
    result.add_argument("--sizes", nargs="+", default=["64x64", "96x64"], help="in pixels (default: 64x64 96x64)")
    result.add_argument("--steps", type=int, nargs="+", default=[10, 20], help="(default: 10 20)")
    result.add_argument("--replicas", type=int, nargs="+", default=[0], help="of Ray Serve (default: none, but saferedir serve)")
    result.add_argument("--output", type=Path, default=Path("serving.json"), help="(default: %(default)s)")
    return result


@contextmanager
def served(engine_dir: Path, bounds: dict[str, Any], replicas: int) -> Iterator[Deployment]:
    """Replicas of Ray Serve, or for 0 `saferedir serve`; they end with the block."""
    if replicas:
        with replicated(engine_dir, bounds, replicas) as url:
            yield Deployment(url, replicas, bounds["batch_size"])
    else:
        with serving(engine_dir, bounds) as server:
            yield Deployment(server.url, 0, bounds["batch_size"])


def main(argv: list[str] | None = None) -> int:
    """Exit status 0; 2 with one line on standard error."""
    arguments = parser().parse_args(argv)
    mix = Mix(tuple(arguments.sizes), tuple(arguments.steps))
    found: list[Load] = []
    print(f"{HEADER}\n{'|---' * 9}|")
    try:
        manifest = Manifest.read(arguments.engine_dir)[0]
        for replicas, batch_size in itertools.product(arguments.replicas, arguments.batch_size):
            bounds = limits(mix, batch_size, queue_length=arguments.requests)
            with served(arguments.engine_dir, bounds, replicas) as deployment:
                found += asyncio.run(loads(deployment, mix, arguments.requests, arguments.clients))
    except SafeRedirError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    document = {
        "machine": describe(),
        "engines": f"{manifest.backend}, {manifest.precision}",
        "mix": dataclasses.asdict(mix),
        "loads": [dataclasses.asdict(load) for load in found],
    }
    arguments.output.write_text(json.dumps(document, indent=1) + "\n")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
