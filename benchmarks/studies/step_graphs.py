"""A loop's steps as one CUDA graph of two steps, replayed for every pair: the rival of one graph of all steps.

Two steps, for what one step writes and the next one reads is there twice. The rows of a pair are copied into arrays of the graph's
own on the stream before each replay, and what its steps reported is copied out after it. Which arrays are rows is seen from the
bound calls: those that differ from one pair to the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from engines.backends.contract import Engine
from engines.backends.program import Execution, Progress
from engines.cuda.device import DeviceArray, Memory
from engines.cuda.graph import CudaCall, CudaProgram, Lanes
from engines.errors import InputError

Copies = dict[int, tuple[DeviceArray, DeviceArray]]  # by the row's address: to, from


class RebindableCall:
    """A call that remembers its engine and arrays. See `engines.cuda.graph.CudaCall`."""

    def __init__(self, engine: Engine, arrays: dict[str, DeviceArray]) -> None:
        self.engine, self.arrays = engine, arrays
        self._run = engine.bind(**arrays)
        self._call = cast(CudaCall, self._run)
        self.scratch_size = self._call.scratch_size

    def __call__(self) -> None:
        self._run()

    def enqueue(self, stream: Any, scratch: Memory) -> None:
        self._call.enqueue(stream, scratch)

    def capturable(self, stream: Any) -> bool:
        return self._call.capturable(stream)


class RebindableEngine:
    """An engine whose calls can be bound again to other arrays. See `engines.backends.contract.Engine`."""

    def __init__(self, engine: Engine) -> None:
        self.spec, self._engine = engine.spec, engine

    def bind(self, **tensors: DeviceArray) -> RebindableCall:
        """See `engines.backends.contract.Engine.bind`."""
        return RebindableCall(self._engine, tensors)


class StepGraphs:
    """A program (`engines.backends.program.Program`) of steps whose calls are RebindableCalls.

    Raises:
        InputError: an odd number of steps.
    """

    def __init__(self, lanes: Lanes, steps: Sequence[Sequence[Sequence[RebindableCall]]]) -> None:
        if len(steps) % 2:
            raise InputError(f"steps: expected an even number, found {len(steps)}")
        self._lanes, self._pairs = lanes, len(steps) // 2
        self._before: list[Copies] = [{} for _ in range(self._pairs)]
        self._after: list[Copies] = [{} for _ in range(self._pairs)]
        own: dict[int, DeviceArray] = {}  # the graph's array in place of a row of the first pair, by that row's address
        calls = [[call for stage in step for call in stage] for step in steps]
        for first in (0, 1):
            for place, call in enumerate(calls[first]):
                for name in call.arrays:
                    self._take(name, [step[place] for step in calls[first::2]], own)
        self._graph = CudaProgram(lanes, [[[_rebound(call, own) for call in stage] for stage in step] for step in steps[:2]])

    def _take(self, name: str, calls: Sequence[RebindableCall], own: dict[int, DeviceArray]) -> None:
        """Note the copies for one tensor of one call in every pair, if the pairs have arrays of their own for it."""
        rows = [call.arrays[name] for call in calls]
        if len({row.address for row in rows}) == 1:
            return
        if rows[0].address not in own:
            own[rows[0].address] = self._lanes.cuda.zeros(rows[0].shape, rows[0].dtype.name)
        mine = own[rows[0].address]
        is_input = any(tensor.name == name for tensor in calls[0].engine.spec.inputs)
        for pair, row in enumerate(rows):
            if is_input:
                self._before[pair][row.address] = mine, row
            else:
                self._after[pair][row.address] = row, mine

    @property
    def execution(self) -> Execution:
        return self._graph.execution

    def run(self, progress: Progress | None = None) -> None:
        """Enqueue all steps."""
        for before, after in zip(self._before, self._after, strict=True):
            self._copy(before)
            self._graph.run()
            self._copy(after)
        if progress is not None:
            progress(2 * self._pairs, 2 * self._pairs)

    def _copy(self, copies: Copies) -> None:
        for to, origin in copies.values():
            self._lanes.cuda.copy(to, origin, self._lanes.main)


def _rebound(call: RebindableCall, own: dict[int, DeviceArray]) -> RebindableCall:
    """The same call on the graph's own arrays where there are such."""
    return RebindableCall(call.engine, {name: own.get(array.address, array) for name, array in call.arrays.items()})
