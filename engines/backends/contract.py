"""The contract between the loop and whatever runs the networks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from mmap import mmap
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from engines.backends.program import Program, Step
from engines.errors import BackendError
from engines.networks import NetworkSpec

Array = Any  # memory of the backend's device: numpy on a CPU
# An engine's files by name. What is here has been read or mapped, and takes the place of the file; None is read from its path.
Contents = Mapping[str, bytes | mmap | None]


class Engine(Protocol):
    """One network, loaded."""

    spec: NetworkSpec

    def bind(self, **tensors: Array) -> Callable[[], None]:
        """A call that runs the network on these arrays, every input and output of its spec by name.

        Binding checks dtypes and shapes once; the call itself neither allocates nor copies. The call
        keeps the arrays alive. Calls of one engine run one at a time.

        Raises:
            BackendError: an array is missing or unknown; here or from the call: the backend failed.
            InputError: an array's dtype or shape does not fit the spec.
        """
        ...


class Backend(Protocol):
    """Loads engines and owns the memory they work on."""

    name: str
    device: str  # what engines run on, in words; results of another device may differ
    on_host: bool  # arrays are numpy's, and a call has ended when it returns

    def load(self, path: Path, spec: NetworkSpec, contents: Contents | None = None) -> Engine:
        """Load one network whose tensors are those of the spec, else raise BackendError.

        `contents` are those of the file, and of files with its weights beside it, as far as they have been read already.
        """
        ...

    def zeros(self, shape: tuple[int, ...], dtype: str, rows: bool = False) -> Array:
        """A new array. With `rows`, engines can also be bound to `array[row, ...]`, which shares its memory."""
        ...

    def write(self, array: Array, values: Any) -> None:
        """Copy host values into an array."""
        ...

    def read(self, array: Array) -> np.ndarray:
        """A copy of an array on the host, once all calls so far have finished."""
        ...

    def used_memory(self) -> int | None:
        """Bytes of the device's memory in use, by every process; None on the host."""
        ...

    def program(self, steps: Sequence[Step]) -> Program:
        """Bound calls in a fixed order, to be run as often as wanted.

        A step is a sequence of stages, a stage a sequence of calls that do not depend on each other and may overlap.
        Making the program may run the first step, on the values that its arrays have then.
        """
        ...


def check_names(spec: NetworkSpec, names: Iterable[str]) -> None:
    """Raise BackendError unless these are the names of a network's tensors."""
    expected, given = [tensor.name for tensor in spec.tensors], list(names)
    if sorted(given) != sorted(expected):
        raise BackendError(f"{spec.name}: expected tensors {expected}, found {given}")


def check_tensors(spec: NetworkSpec, arrays: Mapping[str, Array]) -> None:
    """Raise BackendError unless there is an array for each tensor, InputError unless dtypes and shapes fit."""
    check_names(spec, arrays)
    for tensor in spec.tensors:
        tensor.check(spec.name, arrays[tensor.name].dtype.name, arrays[tensor.name].shape)


def run_once(engine: Engine, backend: Backend, inputs: Mapping[str, np.ndarray], sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Call an engine on host arrays with buffers of its own; its outputs on the host. `sizes` has a number for each symbol."""
    arrays = {tensor.name: backend.zeros(tensor.shape(sizes), tensor.dtype) for tensor in engine.spec.tensors}
    for name, values in inputs.items():
        backend.write(arrays[name], values)
    engine.bind(**arrays)()
    return {tensor.name: backend.read(arrays[tensor.name]) for tensor in engine.spec.outputs}
