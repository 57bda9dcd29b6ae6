"""Thousands of random requests to one server: whether a picture is wrong, a guard was missing, or memory grows.

`python -m benchmarks.endurance ENGINE_DIR` starts `saferedir serve` with an audit file on a free port of 127.0.0.1 and asks for
pictures of both APIs, in every format, of many sizes, step counts, samplers and policies, some bodies malformed and some callers
gone before their answer. Every picture must carry the report of its answer. Afterwards one answered request in twenty is asked
again, alone, and must give the same bits.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.serving import PROMPTS, ROUTE
from benchmarks.suite.machine import describe
from benchmarks.suite.server import Server, serving
from engines.errors import InputError, SafeRedirError
from engines.exit_status import DONE, FAILED
from runtime.picture_files import read_report

A1111 = "/sdapi/v1/txt2img"
SIZES, STEPS = ("64x64", "96x64", "64x96"), (4, 6, 8)
SAMPLERS = ("ddim", "Euler a", "DPM++ 2M Karras", "UniPC", "LCM")
MALFORMED, CANCELLED, OF_A1111 = 0.05, 0.05, 0.2  # shares of the requests; the rest are OpenAI's
CHECKED = 20  # one answer in so many is asked again
EARLY = 200  # requests after which memory is looked at first
LONGEST_WAIT = 0.5  # seconds until a caller who does not wait is gone
BODIES = (
    "{",
    "[]",
    '{"prompt": 3}',
    '{"prompt": "a", "n": 0}',
    '{"prompt": "a", "n": 1e9}',
    '{"prompt": "a", "size": "7x7"}',
    '{"prompt": "a", "scheduler": "none such"}',
    '{"prompt": "a", "num_inference_steps": -1}',
    '{"prompt": "a", "unguarded": true}',
    '{"prompt": "a", "policy": {"fire": "off"}}',
    '{"prompt": "a", "enable_hr": true, "steps": NaN}',
    '{"prompt": "a", "unheard_of": 1}',
)


@dataclass
class Record:
    """What came of all requests. `answers` are the paths and bodies that were answered with pictures, and the pictures' digests;
    `misreported` counts pictures that carry no report or another one than their answer has."""

    statuses: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    verdicts: Counter[str] = field(default_factory=Counter)
    answers: list[tuple[str, dict[str, Any], list[str | None]]] = field(default_factory=list)
    misreported: int = 0
    memory: dict[str, int | None] = field(default_factory=dict)
    done: int = 0


def body(draw: random.Random, seed: int) -> dict[str, Any]:
    """A request that the server's limits allow."""
    asked = {
        "prompt": draw.choice(PROMPTS),
        "seed": seed,
        "size": draw.choice(SIZES),
        "num_inference_steps": draw.choice(STEPS),
        "scheduler": draw.choice(SAMPLERS),
        "n": draw.choice((1, 1, 1, 2)),
        "output_format": draw.choice(("png", "jpeg", "webp")),
    }
    if draw.random() < 0.2:
        asked["policy"] = {"fire": {"threshold": draw.choice((0.1, 0.3))}}
    if draw.random() < 0.2:
        asked["on_unsafe"] = "refuse"
    return asked


def as_a1111(asked: dict[str, Any]) -> dict[str, Any]:
    """The same of AUTOMATIC1111's API, as far as it has a field for it."""
    width, height = map(int, asked["size"].split("x"))
    return {
        "prompt": asked["prompt"],
        "seed": asked["seed"],
        "width": width,
        "height": height,
        "steps": asked["num_inference_steps"],
        "sampler_name": asked["scheduler"],
        "batch_size": asked["n"],
    }


async def one(client: httpx.AsyncClient, draw: random.Random, seed: int, record: Record) -> None:
    """One request of a random kind, and what came of it."""
    kind, asked = draw.random(), body(draw, seed)
    start = time.perf_counter()
    if kind < MALFORMED:
        answer = await client.post(ROUTE, content=draw.choice(BODIES), headers={"content-type": "application/json"})
        record.statuses[f"malformed: {answer.status_code}"] += 1
    elif kind < MALFORMED + CANCELLED:
        try:
            await asyncio.wait_for(client.post(ROUTE, json=asked), draw.random() * LONGEST_WAIT)
            record.statuses["cancelled: answered before"] += 1
        except asyncio.TimeoutError:
            record.statuses["cancelled: gone"] += 1
    else:
        api, path, sent = ("A1111", A1111, as_a1111(asked)) if kind < MALFORMED + CANCELLED + OF_A1111 else ("OpenAI", ROUTE, asked)
        answer = await client.post(path, json=sent)
        record.statuses[f"{api}: {answer.status_code}"] += 1
        record.seconds.append(time.perf_counter() - start)
        _note(path, sent, answer, record)


def _note(path: str, sent: dict[str, Any], answer: httpx.Response, record: Record) -> None:
    found = pictures(path, answer)
    record.verdicts.update(report["verdict"] for report, _ in found)
    record.misreported += sum(file is not None and not _carries(file, report) for report, file in found)
    if answer.status_code == 200:
        record.answers.append((path, sent, _digests(found)))


def pictures(path: str, answer: httpx.Response) -> list[tuple[dict[str, Any], str | None]]:
    """The report of each picture of an answer, and its file in base64, None where it was withheld."""
    content = answer.json()
    if answer.status_code != 200:
        return [(report, None) for report in content.get("saferedir", {}).get("reports", [])]
    if path == ROUTE:
        return [(image["report"], image["b64_json"]) for image in content["data"]]
    files, reports = iter(content["images"]), json.loads(content["info"])["saferedir"]["reports"]
    return [(report, None if report["image_sha256"] is None else next(files)) for report in reports]


def _carries(file: str, report: dict[str, Any]) -> bool:
    """Whether a picture has this report in it, and is the picture that it describes."""
    try:
        found = read_report(base64.b64decode(file))
    except InputError:
        return False
    return found.problem is None and found.report == report


def _digests(found: list[tuple[dict[str, Any], str | None]]) -> list[str | None]:
    return [report["image_sha256"] for report, _ in found]


async def load(server: Server, requests: int, clients: int, record: Record) -> None:
    """All requests, by clients that ask again once they have their answer."""
    numbers = iter(range(requests))
    async with httpx.AsyncClient(base_url=server.url, timeout=600) as client:

        async def ask_on() -> None:
            for number in numbers:
                await one(client, random.Random(f"18 {number}"), number, record)
                record.done += 1
                if record.done in (EARLY, requests):
                    record.memory[f"after {record.done}"] = server.resident_bytes()

        await asyncio.gather(*(ask_on() for _ in range(clients)))


async def again(server: Server, record: Record) -> dict[str, int]:
    """Answers that are asked for once more, each alone: how many, and how many of them gave other bits."""
    asked_again = record.answers[::CHECKED]
    other = 0
    async with httpx.AsyncClient(base_url=server.url, timeout=600) as client:
        for path, sent, digests in asked_again:
            other += _digests(pictures(path, await client.post(path, json=sent))) != digests
    return {"asked again": len(asked_again), "other bits": other}


def faults(document: dict[str, Any]) -> list[str]:
    """What may not have happened, and did."""
    statuses, found = document["statuses"], []
    if served := [name for name in statuses if name.startswith("malformed") and not name.endswith((" 400", " 403", " 422"))]:
        found.append(f"malformed bodies were answered: {', '.join(served)}")
    if errors := [name for name in statuses if name.rpartition(" ")[2].startswith("5")]:
        found.append(f"the server failed: {', '.join(errors)}")
    if {"unguarded", "failed"} & {*document["verdicts"]}:
        found.append(f"verdicts: {document['verdicts']}")
    if document["misreported"]:
        found.append(f"{document['misreported']} pictures do not carry the report of their answer")
    if document["other bits"]:
        found.append(f"{document['other bits']} pictures were others when they were asked for alone")
    if document["audit"]:
        found.append("the audit's record does not hold")
    return found


def main(argv: list[str] | None = None) -> int:
    """Exit status 0; 2 where something went wrong that must not."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endurance", description=__doc__)
    parser.add_argument("engine_dir", type=Path, help="made by saferedir build, for the demo")
    parser.add_argument("--requests", type=int, default=2000, help="(default: %(default)s)")
    parser.add_argument("--clients", type=int, default=6, help="that ask at once (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=4, help="of the server (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("endurance.json"), help="(default: %(default)s)")
    arguments = parser.parse_args(argv)
    record = Record()
    with tempfile.TemporaryDirectory() as folder:
        audit = Path(folder) / "audit.jsonl"
        limits = {"sizes": [*SIZES], "batch_size": arguments.batch_size, "requests_per_minute": 1_000_000}
        try:
            with serving(arguments.engine_dir, limits, ["--audit", str(audit)]) as server:
                asyncio.run(load(server, arguments.requests, arguments.clients, record))
                repeated = asyncio.run(again(server, record))
        except SafeRedirError as error:
            print(f"error: {error}", file=sys.stderr)
            return FAILED
        from saferedir.cli import main as saferedir

        verified = saferedir(["audit", str(audit)])
    p50, p95, p99 = (round(float(value), 3) for value in np.percentile(record.seconds, (50, 95, 99)))
    document: dict[str, Any] = {
        "machine": describe(),
        "requests": arguments.requests,
        "clients": arguments.clients,
        "batch size": arguments.batch_size,
        "statuses": dict(sorted(record.statuses.items())),
        "verdicts": dict(record.verdicts),
        "misreported": record.misreported,
        "seconds": {"p50": p50, "p95": p95, "p99": p99},
        "resident bytes": record.memory,
        **repeated,
        "audit": verified,
    }
    document["faults"] = faults(document)
    arguments.output.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps({name: value for name, value in document.items() if name != "machine"}, indent=1))
    return FAILED if document["faults"] else DONE


if __name__ == "__main__":
    sys.exit(main())
