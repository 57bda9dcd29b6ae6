"""A CUDA runtime on the host, with the functions that `engines.cuda.device` calls of `cuda.bindings.runtime`.

Work on a stream becomes a node with the dependencies that streams and events give it, in a graph as outside of one.
Nodes run late, at a synchronisation, in an order drawn at random among those that the dependencies allow; two nodes that
no dependency orders and of which one writes what the other touches are an error.
"""

from __future__ import annotations

import ctypes
import random
from collections import Counter
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import numpy as np

OK, NO_DRIVER, INVALID_VALUE, OUT_OF_MEMORY, CAPTURE_UNSUPPORTED, CAPTURE_UNJOINED = 0, 35, 1, 2, 900, 904
NAMES = {
    0: "cudaSuccess",
    35: "cudaErrorInsufficientDriver",
    1: "cudaErrorInvalidValue",
    2: "cudaErrorMemoryAllocation",
    900: "cudaErrorStreamCaptureUnsupported",
    904: "cudaErrorStreamCaptureUnjoined",
}
Span = tuple[int, int]  # first address and the one after the last
TOTAL = 1 << 34


class Node:
    def __init__(self, work: Callable[[], None], reads: Sequence[Span], writes: Sequence[Span], after: set[Node]) -> None:
        self.work, self.reads, self.writes, self.after = work, list(reads), list(writes), after


def _overlap(first: Sequence[Span], second: Sequence[Span]) -> bool:
    return any(a < d and c < b for a, b in first for c, d in second)


def run_nodes(nodes: Sequence[Node], draw: random.Random) -> None:
    """Check for hazards, then run in a random order that the dependencies allow."""
    known = set(nodes)
    before: dict[Node, set[Node]] = {}
    for node in nodes:  # in order of submission, so dependencies come first
        direct = node.after & known
        before[node] = direct.union(*(before[other] for other in direct)) if direct else set()
    for index, node in enumerate(nodes):
        for other in nodes[:index]:
            ordered = other in before[node] or node in before[other]
            touched = other.reads + other.writes
            if not ordered and (_overlap(node.writes, touched) or _overlap(other.writes, node.reads)):
                raise AssertionError("two nodes without an order touch the same memory")
    left = list(nodes)
    done: set[Node] = set()
    while left:
        node = draw.choice([node for node in left if node.after & known <= done])
        node.work()
        done.add(node)
        left.remove(node)


class Graph:
    def __init__(self, origin: int) -> None:
        self.origin, self.nodes = origin, []


class FakeRuntime:
    """`calls` counts each function; `nodes_run` the nodes; with `driver=False` there is no driver."""

    cudaStreamNonBlocking, cudaEventDisableTiming = 1, 2
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2, cudaMemcpyDeviceToDevice=3)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self, driver: bool = True, seed: int = 0) -> None:
        self.driver, self.draw = driver, random.Random(seed)
        self.calls: Counter[str] = Counter()
        self.log: list[str] = []
        self.nodes_run = 0
        self.live: Counter[str] = Counter()  # objects made and not destroyed
        self._memory: dict[int, np.ndarray] = {}
        self._last: dict[int, set[Node]] = {}
        self._capture: dict[int, Graph] = {}
        self._events: dict[int, tuple[set[Node], Graph | None]] = {}
        self._pending: list[Node] = []
        self._handles = 0

    def __getattribute__(self, name: str):
        value = super().__getattribute__(name)
        if name.startswith("cuda") and callable(value):
            self.calls[name] += 1
            self.log.append(name)
        return value

    def _handle(self, kind: str) -> int:
        self._handles += 1
        self.live[kind] += 1
        return self._handles

    # Work

    def submit(self, stream: int, work: Callable[[], None], reads: Sequence[Span], writes: Sequence[Span]) -> None:
        """Put work on a stream, or into the graph that is captured from it."""
        node = Node(work, reads, writes, set(self._last[stream]))
        (self._capture[stream].nodes if stream in self._capture else self._pending).append(node)
        self._last[stream] = {node}

    def view(self, address: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """The memory at an address as an array; it must be inside of a live block."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        assert any(start <= address and address + size <= start + len(block) for start, block in self._memory.items())
        return np.frombuffer((ctypes.c_byte * size).from_address(address), dtype).reshape(shape)

    def _finish(self) -> None:
        pending, self._pending = self._pending, []
        run_nodes(pending, self.draw)
        self.nodes_run += len(pending)
        for stream in self._last:
            if stream not in self._capture:
                self._last[stream] = set()

    # Devices and errors

    def cudaGetDeviceCount(self):
        return (OK, 1) if self.driver else (NO_DRIVER, None)

    def cudaSetDevice(self, device):
        return (OK,)

    def cudaGetErrorName(self, error):
        return OK, NAMES[int(error)].encode()

    def cudaGetErrorString(self, error):
        return OK, NAMES[int(error)].encode()

    def cudaGetDeviceProperties(self, device):
        return OK, SimpleNamespace(name=b"Fake GPU", major=8, minor=9, totalGlobalMem=TOTAL)

    def cudaDriverGetVersion(self):
        return OK, 13000

    # Memory

    def cudaMemGetInfo(self):
        graphs = self.live["graph executable"]
        return OK, (TOTAL - sum(map(len, self._memory.values())) - graphs * 4096), TOTAL

    def cudaMalloc(self, size):
        if self._capture:
            return CAPTURE_UNSUPPORTED, None
        if size > TOTAL:
            return OUT_OF_MEMORY, None
        block = np.full(size + 256, 0xA5, np.uint8)
        offset = -block.ctypes.data % 256
        self._memory[block.ctypes.data + offset] = block[offset : offset + size]
        self.live["memory"] += 1
        return OK, block.ctypes.data + offset

    def cudaMemset(self, address, value, size):
        self.view(address, (size,), "uint8")[:] = value
        return (OK,)

    def cudaFree(self, address):
        self._finish()
        del self._memory[address]
        self.live["memory"] -= 1
        return (OK,)

    def cudaMemcpyAsync(self, to, origin, size, kind, stream):
        self.submit(stream, lambda: ctypes.memmove(to, origin, size), [(origin, origin + size)], [(to, to + size)])
        return (OK,)

    def cudaMemcpy2DAsync(self, to, to_pitch, origin, pitch, width, rows, kind, stream):
        def work():
            for row in range(rows):
                ctypes.memmove(to + row * to_pitch, origin + row * pitch, width)

        self.submit(stream, work, [(origin, origin + rows * pitch)], [(to, to + rows * to_pitch)])
        return (OK,)

    # Streams, events, graphs

    def cudaStreamCreateWithFlags(self, flags):
        stream = self._handle("stream")
        self._last[stream] = set()
        return OK, stream

    def cudaStreamDestroy(self, stream):
        self.live["stream"] -= 1
        return (OK,)

    def cudaStreamSynchronize(self, stream):
        if self._capture:
            return (CAPTURE_UNSUPPORTED,)
        self._finish()
        return (OK,)

    def cudaEventCreateWithFlags(self, flags):
        return OK, self._handle("event")

    def cudaEventDestroy(self, event):
        self.live["event"] -= 1
        return (OK,)

    def cudaEventRecord(self, event, stream):
        self._events[event] = set(self._last[stream]), self._capture.get(stream)
        return (OK,)

    def cudaStreamWaitEvent(self, stream, event, flags):
        nodes, graph = self._events[event]
        if graph is not None and stream not in self._capture:
            self._capture[stream], self._last[stream] = graph, set()
        self._last[stream] = self._last[stream] | nodes
        return (OK,)

    def cudaStreamBeginCapture(self, stream, mode):
        self._capture[stream], self._last[stream] = Graph(stream), set()
        return (OK,)

    def cudaStreamEndCapture(self, stream):
        graph = self._capture[stream]
        joined, open_ends = set(), list(self._last[stream])
        while open_ends:
            node = open_ends.pop()
            if node not in joined:
                joined.add(node)
                open_ends += node.after
        for other in [other for other, found in self._capture.items() if found is graph]:
            del self._capture[other]
            self._last[other] = set()
        return (OK, graph) if joined >= set(graph.nodes) else (CAPTURE_UNJOINED, None)

    def cudaGraphInstantiate(self, graph, flags):
        self.live["graph executable"] += 1
        return OK, graph

    def cudaGraphUpload(self, graph, stream):
        return (OK,)

    def cudaGraphLaunch(self, graph, stream):
        def work():
            run_nodes(graph.nodes, self.draw)
            self.nodes_run += len(graph.nodes)

        self.submit(stream, work, [], [])
        return (OK,)

    def cudaGraphDestroy(self, graph):
        return (OK,)

    def cudaGraphExecDestroy(self, graph):
        self.live["graph executable"] -= 1
        return (OK,)
