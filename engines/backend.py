"""The contract between the loop and whatever runs the networks."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from engines.errors import BackendError
from engines.specs import NetworkSpec

Array = Any  # memory of the backend's device: numpy on a CPU


class Engine(Protocol):
    """One network, loaded."""

    spec: NetworkSpec

    def bind(self, **tensors: Array) -> Callable[[], None]:
        """A call that runs the network on these arrays, every input and output of its spec by name.

        Binding checks dtypes and shapes once; the call itself neither allocates nor copies. Whoever holds the call
        holds the arrays. Calls of one engine run one at a time.

        Raises:
            BackendError: an array is missing or unknown; here or from the call: the backend failed.
            InputError: an array's dtype or shape does not fit the spec.
        """
        ...


class Backend(Protocol):
    """Loads engines and owns the memory they work on. An array can be sliced; a slice shares its memory."""

    name: str

    def load(self, path: Path, spec: NetworkSpec) -> Engine:
        """Load one network whose tensors are those of the spec, else raise BackendError."""
        ...

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Array: ...

    def write(self, array: Array, values: Any) -> None:
        """Copy host values into an array."""
        ...

    def read(self, array: Array) -> np.ndarray:
        """A copy of an array on the host, once all calls so far have finished."""
        ...


def run_once(engine: Engine, backend: Backend, inputs: Mapping[str, np.ndarray],
             sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Call an engine on host arrays with buffers of its own; its outputs on the host. `sizes` has a number for each symbol."""
    arrays = {tensor.name: backend.zeros(tensor.shape(sizes), tensor.dtype) for tensor in engine.spec.tensors}
    for name, values in inputs.items():
        backend.write(arrays[name], values)
    engine.bind(**arrays)()
    return {tensor.name: backend.read(arrays[tensor.name]) for tensor in engine.spec.outputs}


def _onnxruntime(precision: str) -> Backend:
    from engines.onnxruntime_backend import OnnxRuntimeBackend
    return OnnxRuntimeBackend()


def _openvino(precision: str) -> Backend:
    from engines.openvino_backend import OpenVinoBackend
    return OpenVinoBackend(precision)


BACKENDS: dict[str, Callable[[str], Backend]] = {"onnxruntime": _onnxruntime, "openvino": _openvino}
PRECISIONS = {"onnxruntime": ("float32",), "openvino": ("float32", "bfloat16"), "tensorrt-rtx": ("float32",)}
BUILD_ONLY = ("tensorrt-rtx",)


def open_backend(name: str, precision: str = "float32") -> Backend:
    """The backend that a manifest names.

    Raises:
        BackendError: unknown, its library is not installed, or it does not run in this precision.
    """
    if name in BUILD_ONLY:
        raise BackendError(f"{name}: these engines can be built, but this release cannot run them; build for one of "
                           f"{', '.join(BACKENDS)}")
    if name not in BACKENDS:
        raise BackendError(f"backend: expected one of {', '.join(BACKENDS)}, found {name!r}")
    if precision not in PRECISIONS[name]:
        raise BackendError(f"{name}: expected precision {' or '.join(PRECISIONS[name])}, found {precision!r}")
    return BACKENDS[name](precision)
