"""Steps on CUDA streams, captured into one graph: the calls of a stage run side by side, and the host waits for none."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

from engines.backends.program import Execution, Progress
from engines.cuda.device import Cuda, Memory
from engines.errors import BackendError


class CudaCall(Protocol):
    """A bound network that can be enqueued on a stream."""

    scratch_size: int  # bytes of device memory that it works in while it runs

    def enqueue(self, stream: Any, scratch: Memory) -> None:
        """Put the network's work on the stream. Calls that may overlap are given different scratch memory."""
        ...

    def capturable(self, stream: Any) -> bool:
        """Whether `enqueue` may be captured into a graph."""
        ...


class Lanes:
    """Streams of a backend, one for each place in a stage, each with scratch memory that its calls share in turn."""

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        self._streams: list[Any] = []
        self._scratch: list[Memory] = []

    @property
    def main(self) -> Any:
        """The stream of the first lane, on which every run begins and ends."""
        return self.stream(0)

    def stream(self, lane: int) -> Any:
        while len(self._streams) <= lane:
            self._streams.append(self.cuda.stream())
        return self._streams[lane]

    def scratch(self, lane: int, size: int) -> Memory:
        """At least `size` bytes. Whoever was given less before keeps what it was given."""
        while len(self._scratch) <= lane:
            self._scratch.append(Memory(self.cuda, 0))
        if self._scratch[lane].size < size:
            self._scratch[lane] = Memory(self.cuda, size)
        return self._scratch[lane]

    def run(self, call: CudaCall) -> None:
        """Enqueue one call on the main stream."""
        call.enqueue(self.main, self.scratch(0, call.scratch_size))

    def __del__(self) -> None:
        for stream in self.__dict__.pop("_streams", ()):
            self.cuda.release("cudaStreamDestroy", stream)


class CudaProgram:
    """All steps as one CUDA graph, or, with `eager`, enqueued one by one at every run, which is easier to debug.

    Warm-up and capture happen here, so that every run is a replay. The warm-up writes into the arrays of the first step.

    Raises:
        BackendError: a call cannot be enqueued or captured.
    """

    def __init__(self, lanes: Lanes, steps: Sequence[Sequence[Sequence[CudaCall]]], eager: bool = False) -> None:
        self._lanes, self._cuda, self._steps = lanes, lanes.cuda, steps
        stages = [stage for step in steps for stage in step]
        width = max(map(len, stages))
        self._scratch = [
            lanes.scratch(lane, max(stage[lane].scratch_size for stage in stages if lane < len(stage))) for lane in range(width)
        ]
        self._forked, *self._joined = (self._cuda.event() for _ in range(width))
        self._graph: Any = None
        self._replays = 0
        self._execution = Execution(reason="eager execution was asked for")
        if not eager:
            self._prepare(stages)

    @property
    def execution(self) -> Execution:
        return dataclasses.replace(self._execution, replays=self._replays)

    def run(self, progress: Progress | None = None) -> None:
        """See `engines.backends.program.Program.run`. Returns when the work is enqueued; reading an array waits for it."""
        if self._graph is None:
            self._enqueue(self._steps)
        else:
            self._cuda.call("cudaGraphLaunch", self._graph, self._lanes.main)
            self._replays += 1
        if progress is not None:
            progress(len(self._steps), len(self._steps))

    def _prepare(self, stages: Sequence[Sequence[CudaCall]]) -> None:
        # A first enqueue may allocate, load modules or compile, all forbidden in a capture; the first step has every network.
        self._enqueue(self._steps[:1])
        self._cuda.call("cudaStreamSynchronize", self._lanes.main)
        for stage in stages:
            for lane, call in enumerate(stage):
                if not call.capturable(self._lanes.stream(lane)):
                    self._execution = Execution(reason="TensorRT says that a network cannot be captured in its stream")
                    return
        before = self._cuda.used_memory()
        try:
            with self._cuda.capturing(self._lanes.main) as captured:
                self._enqueue(self._steps)
        except BackendError as error:
            raise BackendError(f"{error}; the loop could not be captured in a CUDA graph, run it eagerly with: --eager") from error
        self._graph = captured[0]
        self._cuda.call("cudaGraphUpload", self._graph, self._lanes.main)
        self._cuda.call("cudaStreamSynchronize", self._lanes.main)
        self._execution = Execution(True, "", captures=1, graph_memory=max(0, self._cuda.used_memory() - before))

    def _enqueue(self, steps: Sequence[Sequence[Sequence[CudaCall]]]) -> None:
        """Put every call on its lane's stream. A stage forks from the main stream and joins it again."""
        main, call = self._lanes.main, self._cuda.call
        for stage in (stage for step in steps for stage in step):
            if len(stage) > 1:
                call("cudaEventRecord", self._forked, main)
            for lane, network in enumerate(stage):
                stream = self._lanes.stream(lane)
                if lane:
                    call("cudaStreamWaitEvent", stream, self._forked, 0)
                network.enqueue(stream, self._scratch[lane])
            for lane in range(1, len(stage)):
                call("cudaEventRecord", self._joined[lane - 1], self._lanes.stream(lane))
                call("cudaStreamWaitEvent", main, self._joined[lane - 1], 0)

    def __del__(self) -> None:
        if graph := self.__dict__.pop("_graph", None):
            self._cuda.release("cudaGraphExecDestroy", graph)
        for event in (self.__dict__.pop("_forked", None), *self.__dict__.pop("_joined", ())):
            if event is not None:
                self._cuda.release("cudaEventDestroy", event)
