"""When each engine call began and ended: an engine is wrapped where it is bound, and the loop does not know.

The clock is the host's `time.perf_counter_ns`, so a call counts until it returns: on a CPU that is when its work is done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import perf_counter_ns

import numpy as np

from engines.backends.contract import Array, Engine
from engines.networks import NETWORKS

NAMES = tuple(NETWORKS)
LOOP_NETWORKS = ("unet", "guard", "sampler_step")


@dataclass(frozen=True, eq=False)
class Calls:
    """Calls in the order in which they ended: `network` int8 [n], places in NAMES; `start`, `end` int64 [n], nanoseconds."""

    network: np.ndarray
    start: np.ndarray
    end: np.ndarray

    def durations(self, network: str) -> np.ndarray:
        """Nanoseconds of each call of a network, int64."""
        mine = self.network == NAMES.index(network)
        return self.end[mine] - self.start[mine]

    def total(self, network: str) -> int:
        """Nanoseconds of all calls of a network."""
        return int(self.durations(network).sum())

    def gaps(self) -> np.ndarray:
        """Nanoseconds of each step outside engines, int64: its length less its calls, which run one after another.

        A step ends with its sampler_step and begins where the one before ended, the first with its first call.
        """
        in_loop = np.isin(self.network, [NAMES.index(name) for name in LOOP_NETWORKS])
        network, start, end = self.network[in_loop], self.start[in_loop], self.end[in_loop]
        last = np.nonzero(network == NAMES.index("sampler_step"))[0]
        if not len(last):
            return np.zeros(0, np.int64)
        start, end = start[: last[-1] + 1], end[: last[-1] + 1]  # the final check is of no step
        lengths = np.diff(end[last], prepend=start[0])
        return lengths - np.add.reduceat(end - start, np.append(0, last[:-1] + 1))


class CallLog:
    """Records the calls of wrapped engines in arrays made beforehand: recording allocates nothing per call.

    Raises:
        OverflowError: from a call, when more than `capacity` calls were made since the last `clear`.
    """

    def __init__(self, capacity: int = 1 << 16) -> None:
        self._network = np.zeros(capacity, np.int8)
        self._start, self._end = np.zeros(capacity, np.int64), np.zeros(capacity, np.int64)
        self._count = 0

    def wrap(self, engine: Engine) -> TimedEngine:
        """An engine that does the same and whose calls are recorded."""
        return TimedEngine(engine, self)

    def clear(self) -> None:
        self._count = 0

    def calls(self) -> Calls:
        """A copy of what was recorded since the last `clear`."""
        return Calls(*(array[: self._count].copy() for array in (self._network, self._start, self._end)))

    def record(self, place: int, call: Callable[[], None]) -> None:
        """Make a call of the network NAMES[place] and record it."""
        index = self._count
        if index == len(self._start):
            raise OverflowError(f"call log: expected at most {index} calls between two clears; give it a larger capacity")
        start = perf_counter_ns()
        call()
        end = perf_counter_ns()
        self._network[index], self._start[index], self._end[index] = place, start, end
        self._count = index + 1

    def cost(self, calls: int = 1000) -> float:
        """Nanoseconds that recording adds to a call, median of `calls` calls that do nothing."""
        log, times = CallLog(calls), np.zeros(calls + 1, np.int64)
        times[0] = perf_counter_ns()
        for index in range(calls):
            log.record(0, _nothing)
            times[index + 1] = perf_counter_ns()
        return float(np.median(np.diff(times)))


class TimedEngine:
    """An engine whose bound calls are recorded in a log. See `engines.backends.contract.Engine`."""

    def __init__(self, engine: Engine, log: CallLog) -> None:
        self.spec = engine.spec
        self._engine, self._log = engine, log

    def bind(self, **tensors: Array) -> Callable[[], None]:
        """See `engines.backends.contract.Engine.bind`."""
        return partial(self._log.record, NAMES.index(self.spec.name), self._engine.bind(**tensors))


def _nothing() -> None:
    """What `CallLog.cost` records."""
