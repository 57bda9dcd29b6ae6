"""What every backend on a CPU shares: its memory is numpy's, and bound arrays are checked against the spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engines.backends.contract import check_tensors
from engines.backends.program import InTurn, Step
from engines.errors import BackendError
from engines.networks import NetworkSpec


def check_arrays(spec: NetworkSpec, arrays: Mapping[str, np.ndarray]) -> None:
    """Raise BackendError unless there is a C-contiguous array for each tensor, InputError unless dtypes and shapes fit."""
    check_tensors(spec, arrays)
    for name, array in arrays.items():
        if not array.flags.c_contiguous:
            raise BackendError(f"{spec.name}.{name}: expected a C-contiguous array")


class HostMemory:
    """The part of `engines.backends.contract.Backend` that is the same for every library: numpy's memory, and calls run in turn."""

    on_host = True

    def zeros(self, shape: tuple[int, ...], dtype: str, rows: bool = False) -> np.ndarray:
        return np.zeros(shape, dtype)

    def write(self, array: np.ndarray, values: Any) -> None:
        array[...] = values

    def read(self, array: np.ndarray) -> np.ndarray:
        return np.array(array)

    def used_memory(self) -> None:
        return None

    def program(self, steps: Sequence[Step]) -> InTurn:
        """See `engines.backends.contract.Backend.program`."""
        return InTurn(steps)
