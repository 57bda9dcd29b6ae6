"""Peers against this toolkit: each in a process of its own, one at work at a time, in ABBA order."""

from __future__ import annotations

import dataclasses
import multiprocessing
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter_ns, process_time_ns
from types import TracebackType
from typing import Any

import numpy as np

from benchmarks.peers.catalog import OURS, PEERS, Work, resolve
from benchmarks.suite.machine import peak_memory_bytes
from benchmarks.suite.ratios import Spread, paired_ratio
from benchmarks.suite.target import Target
from engines.errors import SafeRedirError

SPAWN = multiprocessing.get_context("spawn")
PATIENCE = 3600  # seconds that a peer may take to load or to run
PAUSE = 0.1  # seconds between two runs, in which thread pools stop to wait actively
EQUAL, CLOSE = 1, 2.55  # largest difference in grey levels of equal pictures; mean difference, 1 % of 255, of close ones


class ContestError(SafeRedirError):
    """A peer cannot take part; the text says why."""


def serve(connection: Connection, name: str, target: Target, scratch: Path) -> None:
    """A peer's process: load, then answer each `Work` with seconds, pictures and processor time used since the last answer."""
    warnings.simplefilter("ignore")
    try:
        started = perf_counter_ns()
        generate = resolve(PEERS[name].factory)(target, scratch)
        connection.send((perf_counter_ns() - started) * 1e-9)
        waiting = process_time_ns()
        while (work := connection.recv()) is not None:
            waited = process_time_ns() - waiting
            started = perf_counter_ns()
            images = generate(work)
            seconds = (perf_counter_ns() - started) * 1e-9
            connection.send((seconds, np.stack([np.asarray(image) for image in images]), waited * 1e-9, peak_memory_bytes()))
            waiting = process_time_ns()
    except Exception as error:  # whatever a peer's libraries raise is the peer's reason
        connection.send(ContestError(f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"))


class Contestant:
    """A peer in its process, loaded. Leaving the `with` block ends it.

    Raises:
        ContestError: it cannot be loaded.
    """

    def __init__(self, name: str, target: Target, scratch: Path) -> None:
        self.name, self.seconds, self.waiting_seconds, self.peak_memory_bytes = name, list[float](), 0.0, 0
        self._connection, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(target=serve, args=(theirs, name, target, scratch))
        self._process.start()
        theirs.close()
        try:
            self.load_seconds: float = self._answer()
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> Contestant:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()

    def _end(self) -> None:
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self._connection.close()

    def run(self, work: Work) -> np.ndarray:
        """Pictures uint8 [B, height, width, 3]; the time of a run that is not a comparison is kept in `seconds`."""
        time.sleep(PAUSE)
        seconds, pictures, waited, self.peak_memory_bytes = self._answer(work)
        if not work.comparing:
            self.seconds.append(seconds)
            self.waiting_seconds += waited
        return pictures

    def _answer(self, work: Work | None = None) -> Any:
        """What the process sends next, after it got `work`."""
        try:
            if work is not None:
                self._connection.send(work)
            if not self._connection.poll(PATIENCE):
                raise ContestError(f"no answer within {PATIENCE} s")
            answer = self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            raise ContestError(f"its process ended with exit status {self._process.exitcode}") from None
        if isinstance(answer, ContestError):
            raise answer
        return answer


def contest(
    names: Sequence[str], target: Target, safe: Work, triggering: Work, rounds: int, tick: Callable[[], object] = lambda: None
) -> list[dict[str, Any]]:
    """A record for each peer; `tick` is called after each. A peer that fails has its reason in "failure" and no figures."""
    records = []
    for name in names:
        peer = PEERS[name]
        record: dict[str, Any] = {
            "peer": name,
            "description": peer.description,
            "precision": peer.precision,
            "failure": None,
            "num_inference_steps": safe.num_inference_steps,
        }
        try:
            with tempfile.TemporaryDirectory() as scratch:
                record |= _meet(name, target, (safe, triggering), rounds, Path(scratch))
        except ContestError as error:
            record["failure"] = str(error)
        records.append(record)
        tick()
    return records


def _meet(name: str, target: Target, works: tuple[Work, Work], rounds: int, scratch: Path) -> dict[str, Any]:
    """Compare pictures, which also warms up, then time in ABBA order: a steady drift of the machine cancels in each round."""
    if PEERS[name].prepare:
        try:
            with ProcessPoolExecutor(1, SPAWN) as pool:
                pool.submit(_prepare, name, target, scratch).result()
        except Exception as error:
            raise ContestError(f"preparing: {type(error).__name__}: {error}") from None
    with Contestant(OURS, target, scratch) as ours, Contestant(name, target, scratch) as peer:
        pictures = {}
        for kind, work in zip(("safe", "triggering"), works[: 2 if PEERS[name].redirects else 1], strict=False):
            comparing = dataclasses.replace(work, comparing=True)
            pictures[kind] = difference(ours.run(comparing), peer.run(comparing))
        started = perf_counter_ns()
        for _ in range(rounds):
            for contestant in (ours, peer, peer, ours):
                contestant.run(works[0])
        wall = (perf_counter_ns() - started) * 1e-9
        return {
            **figures(ours.seconds, peer.seconds, len(works[0].prompts)),
            "pictures": pictures,
            "agreement": agreement(pictures),
            "load_seconds": peer.load_seconds,
            "peak_memory_bytes": peer.peak_memory_bytes,
            "processor_seconds_while_waiting": ours.waiting_seconds + peer.waiting_seconds,
            "wall_seconds": wall,
        }


def _prepare(name: str, target: Target, scratch: Path) -> None:
    warnings.simplefilter("ignore")
    resolve(PEERS[name].prepare)(target, scratch)


def figures(ours: Sequence[float], peer: Sequence[float], images: int) -> dict[str, Any]:
    """Of ABBA rounds: two times of each a round. The ratio is the peer's time over ours, round by round."""
    both = [np.reshape(seconds, (-1, 2)).sum(axis=1) for seconds in (ours, peer)]
    return {
        "seconds": dataclasses.asdict(Spread.of(peer)),
        "our_seconds": dataclasses.asdict(Spread.of(ours)),
        "images_per_second": images / Spread.of(peer).median,
        "ratio": dataclasses.asdict(paired_ratio(both[1], both[0])),
    }


def difference(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    """Largest and mean difference of two uint8 arrays in grey levels; pictures of another shape differ by all of them."""
    if ours.shape != theirs.shape:
        return {"max": 255.0, "mean": 255.0}
    levels = np.abs(ours.astype(int) - theirs.astype(int))
    return {"max": float(levels.max()), "mean": float(levels.mean())}


def agreement(pictures: dict[str, dict[str, float]]) -> str:
    """ "equal", "close" or "different"; a different picture does not count, however fast."""
    if all(levels["max"] <= EQUAL for levels in pictures.values()):
        return "equal"
    return "close" if all(levels["mean"] <= CLOSE for levels in pictures.values()) else "different"
