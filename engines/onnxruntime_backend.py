"""ONNX Runtime on a CPU: sessions whose inputs and outputs are bound to the caller's numpy arrays."""
from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from engines.errors import BackendError
from engines.specs import NetworkSpec

try:
    import onnxruntime
except ImportError as error:
    raise BackendError(f"onnxruntime cannot be imported ({error}); install it with: pip install onnxruntime") from None

BINDINGS = 16  # a shape needs at most 4 for one network (guard: two samples, two embeddings)


class OnnxRuntimeEngine:
    """One session. Arrays are bound on their first call and found again by identity: a step neither allocates nor copies.

    Thread safety: one call at a time.
    """

    def __init__(self, session: onnxruntime.InferenceSession, spec: NetworkSpec) -> None:
        self.spec = spec
        self._session = session
        self._bindings: OrderedDict[tuple[int, ...], tuple[Any, dict[str, np.ndarray]]] = OrderedDict()

    def __call__(self, **tensors: np.ndarray) -> None:
        """Run on C-contiguous arrays, one for each input and output of the spec.

        Raises:
            InputError: an array's dtype or shape does not fit the spec.
            BackendError: an array is missing or unknown, or ONNX Runtime failed.
        """
        key = tuple(map(id, tensors.values()))
        bound = self._bindings.get(key)
        if bound is None:
            bound = self._bind(tensors)
            self._bindings[key] = bound
            if len(self._bindings) > BINDINGS:
                self._bindings.popitem(last=False)
        try:
            self._session.run_with_iobinding(bound[0])
        except Exception as error:  # ONNX Runtime raises a class of its own for each status code
            raise BackendError(f"{self.spec.name}: ONNX Runtime failed: {error}") from error

    def _bind(self, tensors: dict[str, np.ndarray]) -> tuple[Any, dict[str, np.ndarray]]:
        expected = [tensor.name for tensor in self.spec.tensors]
        if sorted(tensors) != sorted(expected):
            raise BackendError(f"{self.spec.name}: expected tensors {expected}, found {list(tensors)}")
        binding = self._session.io_binding()
        for tensors_of, bind in ((self.spec.inputs, binding.bind_input), (self.spec.outputs, binding.bind_output)):
            for tensor in tensors_of:
                array = tensors[tensor.name]
                tensor.check(self.spec.name, array.dtype.name, array.shape)
                if not array.flags.c_contiguous:
                    raise BackendError(f"{self.spec.name}.{tensor.name}: expected a C-contiguous array")
                bind(tensor.name, "cpu", 0, array.dtype.type, list(array.shape), array.ctypes.data)
        return binding, tensors  # holding the arrays keeps their memory, and so their identity, alive


class OnnxRuntimeBackend:
    """Loads model.onnx files; memory is numpy's."""

    name = "onnxruntime"
    host_memory = True

    def load(self, path: Path, spec: NetworkSpec) -> OnnxRuntimeEngine:
        """Load one network whose tensors are those of the spec.

        Raises:
            BackendError: ONNX Runtime refuses the file, or its tensors are not the spec's.
        """
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise BackendError(f"{path}: ONNX Runtime cannot load it: {error}") from error
        found = [value.name for value in (*session.get_inputs(), *session.get_outputs())]
        expected = [tensor.name for tensor in spec.tensors]
        if found != expected:
            raise BackendError(f"{path}: expected tensors {expected}, found {found}")
        return OnnxRuntimeEngine(session, spec)

    def empty(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        return np.empty(shape, dtype)

    def write(self, array: np.ndarray, values: Any) -> None:
        array[...] = values

    def read(self, array: np.ndarray) -> np.ndarray:
        """A copy, so that later steps do not change what was read."""
        return array.copy()
