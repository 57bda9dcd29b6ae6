"""Device memory, streams and graphs of one NVIDIA GPU, on cuda-python's runtime bindings alone."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import EllipsisType
from typing import Any

import numpy as np

from engines.errors import BackendError
from engines.install import install

ALIGNMENT = 256  # bytes; TensorRT asks it of every tensor's address


@dataclass(frozen=True)
class DeviceInfo:
    """What a GPU is; `compute_capability` as "8.9", `driver` the CUDA version that the driver supports, memory in bytes."""

    name: str
    compute_capability: str
    driver: str
    memory: int

    def __str__(self) -> str:
        return f"{self.name}, compute capability {self.compute_capability}, driver for CUDA {self.driver}"


def _round_up(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


class Memory:
    """A block of device memory, zeroed when made and freed with the object."""

    def __init__(self, cuda: Cuda, size: int) -> None:
        self._cuda, self.size = cuda, size
        self.address = cuda.call("cudaMalloc", max(size, ALIGNMENT))
        cuda.call("cudaMemset", self.address, 0, max(size, ALIGNMENT))

    def __del__(self) -> None:
        if address := self.__dict__.pop("address", 0):
            self._cuda.release("cudaFree", address)


class DeviceArray:
    """A C-contiguous tensor in device memory, or one whose rows along the first axis each start at an aligned address.

    `array[row, ...]` is a view of one row.
    """

    def __init__(self, memory: Memory, offset: int, shape: tuple[int, ...], dtype: str, pitch: int) -> None:
        """`pitch`: bytes from one row of the first axis to the next."""
        self.memory, self.offset, self.shape, self.dtype, self.pitch = memory, offset, shape, np.dtype(dtype), pitch

    @property
    def address(self) -> int:
        return int(self.memory.address) + self.offset

    @property
    def nbytes(self) -> int:
        """Bytes of the values, without padding."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __getitem__(self, key: tuple[int, EllipsisType]) -> DeviceArray:
        row = range(self.shape[0])[key[0]]
        inner = self.shape[1:]
        stride = math.prod(inner[1:]) * self.dtype.itemsize
        return DeviceArray(self.memory, self.offset + row * self.pitch, inner, self.dtype.name, stride)


class Cuda:
    """The current GPU through the module `cuda.bindings.runtime`, or one with its functions.

    Raises:
        BackendError: there is no driver or no GPU, or a call failed.
    """

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        error, count = runtime.cudaGetDeviceCount()
        if int(error) or not count:
            reason = self._name(error) if int(error) else "no GPU"
            raise BackendError(
                f"CUDA: expected an NVIDIA GPU and its driver, found {reason}; install the driver, or build engines "
                "for a CPU with: saferedir build --backend onnxruntime"
            )
        self.call("cudaSetDevice", 0)

    def _name(self, error: Any) -> str:
        _, name = self._runtime.cudaGetErrorName(error)
        return name.decode() if isinstance(name, bytes) else str(name)

    def call(self, function: str, *arguments: Any) -> Any:
        """Call a runtime function; its result, a tuple for several.

        Raises:
            BackendError: it did not return cudaSuccess.
        """
        error, *results = getattr(self._runtime, function)(*arguments)
        if int(error):
            _, text = self._runtime.cudaGetErrorString(error)
            text = text.decode() if isinstance(text, bytes) else text
            raise BackendError(f"CUDA: {function} failed with {self._name(error)}: {text}")
        return results[0] if len(results) == 1 else tuple(results)

    def release(self, function: str, handle: Any) -> None:
        """Call a destructor of the runtime. It cannot raise: it also runs when the interpreter ends or after a CUDA error."""
        getattr(self._runtime, function)(handle)

    def info(self) -> DeviceInfo:
        """Name and capability of the GPU."""
        device = self.call("cudaGetDeviceProperties", 0)
        version = self.call("cudaDriverGetVersion")
        name = device.name.decode().rstrip("\0") if isinstance(device.name, bytes) else device.name
        return DeviceInfo(
            name, f"{device.major}.{device.minor}", f"{version // 1000}.{version % 1000 // 10}", int(device.totalGlobalMem)
        )

    def used_memory(self) -> int:
        """Bytes of the GPU's memory in use, by every process."""
        free, total = self.call("cudaMemGetInfo")
        return int(total) - int(free)

    def zeros(self, shape: tuple[int, ...], dtype: str, rows: bool = False) -> DeviceArray:
        """A new array of zeros; with `rows`, each row along the first axis starts at an aligned address."""
        pitch = math.prod(shape[1:]) * np.dtype(dtype).itemsize
        if rows:
            pitch = _round_up(pitch)
        return DeviceArray(Memory(self, pitch * (shape[0] if shape else 1)), 0, shape, dtype, pitch)

    def write(self, array: DeviceArray, values: Any, stream: Any) -> None:
        """Copy host values, broadcast to the array's shape, after the stream's work; returns once they are there."""
        host = np.ascontiguousarray(np.broadcast_to(np.asarray(values, array.dtype), array.shape))
        self._copy(array, host, stream, "cudaMemcpyHostToDevice")

    def read(self, array: DeviceArray, stream: Any) -> np.ndarray:
        """A copy on the host, once the stream's work has finished."""
        host = np.empty(array.shape, array.dtype)
        self._copy(array, host, stream, "cudaMemcpyDeviceToHost")
        return host

    def _copy(self, array: DeviceArray, host: np.ndarray, stream: Any, kind: str) -> None:
        """Between host and device, row by row, for the device's may be padded. Waits: the host's memory may be gone soon."""
        rows = array.shape[0] if array.shape else 1
        width = array.nbytes // max(rows, 1)
        device, packed = (array.address, array.pitch if array.shape else width), (host.ctypes.data, width)
        to, origin = (device, packed) if kind == "cudaMemcpyHostToDevice" else (packed, device)
        self.call("cudaMemcpy2DAsync", *to, *origin, width, rows, getattr(self._runtime.cudaMemcpyKind, kind), stream)
        self.call("cudaStreamSynchronize", stream)

    def copy(self, to: DeviceArray, origin: DeviceArray, stream: Any) -> None:
        """Copy between two packed arrays of the device on a stream."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self.call("cudaMemcpyAsync", to.address, origin.address, origin.nbytes, kind, stream)

    def stream(self) -> Any:
        """A new stream that does not wait for the default stream."""
        return self.call("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking)

    def event(self) -> Any:
        """A new event without timing."""
        return self.call("cudaEventCreateWithFlags", self._runtime.cudaEventDisableTiming)

    @contextmanager
    def capturing(self, stream: Any) -> Iterator[list[Any]]:
        """Record what the block enqueues on the stream, and on streams forked from it, instead of running it.

        The list that it gives contains the executable graph once the block has ended.
        """
        captured: list[Any] = []
        self.call("cudaStreamBeginCapture", stream, self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
        try:
            yield captured
        except BaseException:
            self._runtime.cudaStreamEndCapture(stream)  # ends the stream's capture; the block's own error tells more
            raise
        graph = self.call("cudaStreamEndCapture", stream)
        try:
            captured.append(self.call("cudaGraphInstantiate", graph, 0))
        finally:
            self.release("cudaGraphDestroy", graph)


def open_cuda() -> Cuda:
    """The first visible GPU.

    Raises:
        BackendError: cuda-python is not installed, or there is no driver or no GPU.
    """
    try:
        runtime = importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise BackendError(f"cuda-python cannot be imported ({error}); install it with: {install('cuda')}") from None
    return Cuda(runtime)
