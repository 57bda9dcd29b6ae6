"""Peers against this toolkit: each in a process of its own, one at work at a time, in ABBA order."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import Pipe
from pathlib import Path
from time import perf_counter_ns
from types import TracebackType
from typing import Any

import numpy as np

from benchmarks.peers.catalog import ENVIRONMENTS, OURS, PEERS, Peer, Work
from benchmarks.peers.process import Answer, Failure, Order
from benchmarks.suite.ratios import Spread, paired_ratio
from benchmarks.suite.target import Target
from engines.errors import SafeRedirError

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE = 3600  # seconds that a peer may take to load or to run
PAUSE = 0.1  # seconds between two runs, in which thread pools stop to wait actively
OF_A_PROCESS = ("load_seconds", "first_seconds", "peak_memory_bytes", "resident_memory_bytes")
EQUAL, CLOSE = 1, 2.55  # largest difference in grey levels of equal pictures; mean difference, 1 % of 255, of close ones


class ContestError(SafeRedirError):
    """A peer cannot take part; the text says why."""


class Contestant:
    """A peer in its process, loaded. Leaving the `with` block ends it.

    `python` is the interpreter of the peer's environment. The first run, which may still compile or read weights, counts apart
    from `seconds`, in `first_seconds`.

    Raises:
        ContestError: it cannot be loaded.
    """

    def __init__(self, order: Order, python: str) -> None:
        self.name, self.seconds, self.waiting_seconds = order.peer, list[float](), 0.0
        self.first_seconds, self.peak_memory_bytes = 0.0, 0
        self.resident_memory_bytes: int | None = None
        self._connection, theirs = Pipe()
        command = [python, "-c", f"from benchmarks.peers.process import serve; serve({theirs.fileno()})"]
        try:
            self._process = subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        except OSError as error:
            raise ContestError(f"{python}: {error.strerror}; --peer-python names a Python") from None
        finally:
            theirs.close()
        try:
            self.load_seconds: float = self._answer(order)
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> Contestant:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._connection.close()

    def run(self, work: Work) -> np.ndarray:
        """Pictures uint8 [B, height, width, 3]; the time of a run that is not a comparison is kept in `seconds`."""
        time.sleep(PAUSE)
        answer: Answer = self._answer(work)
        self.peak_memory_bytes, self.resident_memory_bytes = answer.peak_memory_bytes, answer.resident_memory_bytes
        self.first_seconds = self.first_seconds or answer.seconds
        if not work.comparing:
            self.seconds.append(answer.seconds)
            self.waiting_seconds += answer.waiting_seconds
        return answer.pictures

    def _answer(self, message: Order | Work) -> Any:
        """What the process sends next, after it got `message`."""
        try:
            self._connection.send(message)
            if not self._connection.poll(PATIENCE):
                raise ContestError(f"no answer within {PATIENCE} s")
            answer = self._connection.recv()
        except (EOFError, ConnectionError):
            raise ContestError(f"its process ended with exit status {self._process.wait()}") from None
        if isinstance(answer, Failure):
            raise ContestError(answer.reason)
        return answer


def contest(
    names: Sequence[str], target: Target, safe: Work, triggering: Work, rounds: int, pythons: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """A record for each peer, as it is done. A peer that fails has its reason in "failure" and no figures.

    `pythons` has the interpreter of each environment that is there, by its name in ENVIRONMENTS.
    """
    with tempfile.TemporaryDirectory() as root:
        prepared: dict[str, Path] = {}  # what peers that are prepared alike share
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
                python = _python(peer, pythons)
                order = Order(name, target, Path(tempfile.mkdtemp(dir=root)))
                if peer.prepare:
                    order = dataclasses.replace(order, scratch=prepared.get(peer.prepare) or _prepare(order, python))
                    prepared[peer.prepare] = order.scratch
                record |= _meet(order, python, (safe, triggering), rounds)
            except ContestError as error:
                record["failure"] = str(error)
            yield record


def _python(peer: Peer, pythons: Mapping[str, str]) -> str:
    if not peer.environment:
        return sys.executable
    if peer.environment not in pythons:
        raise ContestError(
            f"needs an environment of its own: pip install -e . {ENVIRONMENTS[peer.environment]}, "
            f"then --peer-python {peer.environment}=PYTHON"
        )
    return pythons[peer.environment]


def _prepare(order: Order, python: str) -> Path:
    """The order's scratch folder with what the peer reads, made by a process that has ended."""
    with Contestant(dataclasses.replace(order, prepare=True), python):
        return order.scratch


def _meet(order: Order, python: str, works: tuple[Work, Work], rounds: int) -> dict[str, Any]:
    """Compare pictures, which also warms up, then time in ABBA order: a steady drift of the machine cancels in each round."""
    with Contestant(dataclasses.replace(order, peer=OURS), sys.executable) as ours, Contestant(order, python) as peer:
        pictures = {}
        for kind, work in zip(("safe", "triggering"), works[: 2 if PEERS[order.peer].redirects else 1], strict=False):
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
            **{name: getattr(peer, name) for name in OF_A_PROCESS},
            "ours": {name: getattr(ours, name) for name in OF_A_PROCESS},
            "processor_seconds_while_waiting": ours.waiting_seconds + peer.waiting_seconds,
            "wall_seconds": wall,
        }


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
