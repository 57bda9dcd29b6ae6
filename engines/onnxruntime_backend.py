"""ONNX Runtime on a CPU: sessions whose inputs and outputs are bound to the caller's numpy arrays."""
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from engines.backend import check_names
from engines.errors import BackendError
from engines.host_arrays import HostMemory, check_arrays
from engines.specs import NetworkSpec

try:
    import onnxruntime
except ImportError as error:
    raise BackendError(f"onnxruntime cannot be imported ({error}); install it with: pip install onnxruntime") from None


class OnnxRuntimeEngine:
    """One session; `bind` ties its inputs and outputs to C-contiguous numpy arrays."""

    def __init__(self, session: onnxruntime.InferenceSession, spec: NetworkSpec) -> None:
        self.spec = spec
        self._session = session

    def bind(self, **tensors: np.ndarray) -> Callable[[], None]:
        """See `engines.backend.Engine.bind`."""
        check_arrays(self.spec, tensors)
        binding = self._session.io_binding()
        for tensors_of, bind in ((self.spec.inputs, binding.bind_input), (self.spec.outputs, binding.bind_output)):
            for tensor in tensors_of:
                array = tensors[tensor.name]
                bind(tensor.name, "cpu", 0, array.dtype.type, list(array.shape), array.ctypes.data)
        return partial(self._run, binding, tuple(tensors.values()))  # bound by address: the call keeps the arrays alive

    def _run(self, binding: onnxruntime.IOBinding, arrays: tuple[np.ndarray, ...]) -> None:
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # ONNX Runtime raises a class of its own for each status code
            raise BackendError(f"{self.spec.name}: ONNX Runtime failed: {error}") from error


class OnnxRuntimeBackend(HostMemory):
    """Loads model.onnx files."""

    name = "onnxruntime"
    device = f"ONNX Runtime {onnxruntime.__version__}, CPU"

    def options(self) -> onnxruntime.SessionOptions:
        """Session options, chosen by `benchmarks/cpu_backends.py`."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # Each session has threads of its own, and by default they spin for a long time after a run: on the cores that the next
        # network needs. Twenty microseconds last from one operator to the next.
        options.add_session_config_entry("session.intra_op.spin_duration_us", "20")
        return options

    def load(self, path: Path, spec: NetworkSpec) -> OnnxRuntimeEngine:
        """See `engines.backend.Backend.load`."""
        try:
            session = onnxruntime.InferenceSession(str(path), self.options(), providers=["CPUExecutionProvider"])
        except Exception as error:
            raise BackendError(f"{path}: ONNX Runtime cannot load it: {error}") from error
        check_names(spec, [value.name for value in (*session.get_inputs(), *session.get_outputs())])
        return OnnxRuntimeEngine(session, spec)
