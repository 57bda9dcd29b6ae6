"""What a peer's process does, run by the Python of the peer's environment, and the messages that it exchanges.

Nothing is imported that an environment with this toolkit's runtime lacks.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter_ns, process_time_ns

import numpy as np

from benchmarks.peers.catalog import PEERS, resolve
from benchmarks.suite.machine import peak_memory_bytes, resident_memory_bytes
from benchmarks.suite.target import Target


@dataclass(frozen=True)
class Order:
    """What a process is for: to prepare a peer, or else to load it and generate."""

    peer: str
    target: Target
    scratch: Path
    prepare: bool = False


@dataclass(frozen=True, eq=False)
class Answer:
    """To one `Work`: pictures uint8 [B, height, width, 3], the seconds they took, processor seconds since the answer before,
    and the process's memory."""

    pictures: np.ndarray
    seconds: float
    waiting_seconds: float
    peak_memory_bytes: int
    resident_memory_bytes: int | None


@dataclass(frozen=True)
class Failure:
    """Why a peer cannot go on, in one line."""

    reason: str


def serve(descriptor: int) -> None:
    """Over the connection with this file descriptor: take an `Order`, send the seconds that it took, then an `Answer` to each
    `Work` until None comes. A `Failure` ends it.
    """
    warnings.simplefilter("ignore")
    connection = Connection(descriptor)
    order: Order = connection.recv()
    peer = PEERS[order.peer]
    try:
        started = perf_counter_ns()
        generate = resolve(peer.prepare if order.prepare else peer.factory)(order.target, order.scratch)
        connection.send((perf_counter_ns() - started) * 1e-9)
        waiting = process_time_ns()
        while (work := connection.recv()) is not None:
            waited = process_time_ns() - waiting
            started = perf_counter_ns()
            images = generate(work)
            seconds = (perf_counter_ns() - started) * 1e-9
            pictures = np.stack([np.asarray(image) for image in images])
            resident = resident_memory_bytes()  # before the peak, which then is no smaller
            connection.send(Answer(pictures, seconds, waited * 1e-9, peak_memory_bytes(), resident))
            waiting = process_time_ns()
    except Exception as error:  # whatever a peer's libraries raise is the peer's reason
        connection.send(Failure(f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"))
