"""The contract between the loop and whatever runs the networks."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from engines.errors import BackendError
from engines.specs import NetworkSpec

Array = Any  # memory of the backend's device: numpy on a CPU


class Engine(Protocol):
    """One network, loaded. Called with every input and output of its spec by name; writes into the outputs."""

    spec: NetworkSpec

    def __call__(self, **tensors: Array) -> None: ...


class Backend(Protocol):
    """Loads engines and owns the memory they work on.

    `host_memory` says that arrays are numpy arrays which the host may read at any time for nothing.
    """

    name: str
    host_memory: bool

    def load(self, path: Path, spec: NetworkSpec) -> Engine: ...

    def empty(self, shape: tuple[int, ...], dtype: str) -> Array: ...

    def write(self, array: Array, values: Any) -> None: ...

    def read(self, array: Array) -> np.ndarray: ...


def _onnxruntime() -> Backend:
    from engines.onnxruntime_backend import OnnxRuntimeBackend
    return OnnxRuntimeBackend()


BACKENDS: dict[str, Callable[[], Backend]] = {"onnxruntime": _onnxruntime}


def open_backend(name: str) -> Backend:
    """The backend that a manifest names.

    Raises:
        BackendError: unknown, or its library is not installed.
    """
    if name not in BACKENDS:
        raise BackendError(f"backend: expected one of {', '.join(BACKENDS)}, found {name!r}")
    return BACKENDS[name]()
