"""What every backend on a CPU shares: its memory is numpy's, and bound arrays are checked against the spec."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from engines.errors import BackendError
from engines.specs import NetworkSpec


def check_names(spec: NetworkSpec, found: Iterable[str]) -> None:
    """Raise BackendError unless these are the names of the spec's tensors."""
    expected, names = [tensor.name for tensor in spec.tensors], list(found)
    if sorted(names) != sorted(expected):
        raise BackendError(f"{spec.name}: expected tensors {expected}, found {names}")


def check_arrays(spec: NetworkSpec, arrays: Mapping[str, np.ndarray]) -> None:
    """Raise BackendError unless there is a C-contiguous array for each tensor, InputError unless dtypes and shapes fit."""
    check_names(spec, arrays)
    for tensor in spec.tensors:
        array = arrays[tensor.name]
        tensor.check(spec.name, array.dtype.name, array.shape)
        if not array.flags.c_contiguous:
            raise BackendError(f"{spec.name}.{tensor.name}: expected a C-contiguous array")


class HostMemory:
    """The memory part of `engines.backend.Backend`, in numpy."""

    def zeros(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        return np.zeros(shape, dtype)

    def write(self, array: np.ndarray, values: Any) -> None:
        array[...] = values

    def read(self, array: np.ndarray) -> np.ndarray:
        return array.copy()
