"""ONNX Runtime on a CPU: sessions whose inputs and outputs are bound to the caller's numpy arrays."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from engines.backends.contract import Contents, check_names
from engines.backends.host_memory import HostMemory, check_arrays
from engines.backends.onnx_source import onnx_source
from engines.backends.processor import processor
from engines.errors import BackendError
from engines.install import install
from engines.networks import NetworkSpec

try:
    import onnxruntime
except ImportError as error:
    raise BackendError(f"onnxruntime cannot be imported ({error}); install it with: {install('onnxruntime')}") from None


SHRINK = onnxruntime.RunOptions()
SHRINK.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")


class OnnxRuntimeEngine:
    """One session; `bind` ties its inputs and outputs to C-contiguous numpy arrays."""

    def __init__(self, session: onnxruntime.InferenceSession, spec: NetworkSpec) -> None:
        self.spec = spec
        self._session = session
        self._planned: set[tuple[tuple[int, ...], ...]] = set()  # shapes of inputs that have been run

    def bind(self, **tensors: np.ndarray) -> Callable[[], None]:
        """See `engines.backends.contract.Engine.bind`."""
        check_arrays(self.spec, tensors)
        binding = self._session.io_binding()
        for tensors_of, bind in ((self.spec.inputs, binding.bind_input), (self.spec.outputs, binding.bind_output)):
            for tensor in tensors_of:
                array = tensors[tensor.name]
                bind(tensor.name, "cpu", 0, array.dtype.type, list(array.shape), array.ctypes.data)
        shapes = tuple(tensors[tensor.name].shape for tensor in self.spec.inputs)
        return partial(self._run, binding, shapes, tuple(tensors.values()))  # bound by address: the call keeps the arrays alive

    def _run(self, binding: onnxruntime.IOBinding, shapes: tuple[tuple[int, ...], ...], arrays: tuple[np.ndarray, ...]) -> None:
        try:
            # From the second run with these shapes on, ONNX Runtime takes all scratch memory in one block, as the first run
            # needed it. What the first has taken piece by piece is given back, else both would stay in use.
            # Networks that do not run at every step always give it back, for the others to use; taking it again needs a
            # thousandth of a picture's time.
            keeps = shapes in self._planned and self.spec.runs == "step"
            self._session.run_with_iobinding(binding, None if keeps else SHRINK)
            self._planned.add(shapes)
        except Exception as error:  # ONNX Runtime raises a class of its own for each status code
            raise BackendError(f"{self.spec.name}: ONNX Runtime failed: {error}") from error


class OnnxRuntimeBackend(HostMemory):
    """Loads model.onnx files; `threads` compute, by default one for each core."""

    name = "onnxruntime"
    device = f"ONNX Runtime {onnxruntime.__version__}, CPU {processor()}"

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads

    def options(self) -> onnxruntime.SessionOptions:
        """Session options, chosen by `benchmarks/studies/cpu_backends.py` and `benchmarks/loading/load_time.py`."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self._threads or 0  # 0: one for each core
        # Each session has threads of its own, and by default they spin for a long time after a run: on the cores that the next
        # network needs. Twenty microseconds last from one operator to the next.
        options.add_session_config_entry("session.intra_op.spin_duration_us", "20")
        options.add_session_config_entry("session.prepack.enable_parallel", "1")
        return options

    def load(self, path: Path, spec: NetworkSpec, contents: Contents | None = None) -> OnnxRuntimeEngine:
        """See `engines.backends.contract.Backend.load`."""
        session = self._open(path, self.options(), contents)
        check_names(spec, [value.name for value in (*session.get_inputs(), *session.get_outputs())])
        return OnnxRuntimeEngine(session, spec)

    def optimize(self, path: Path, output: Path, contents: Contents | None = None) -> None:
        """Write the graph as this CPU runs it to `output`, with weights, also packed ones, in a file to map beside it.

        `contents` as for `load`.

        Raises:
            BackendError: ONNX Runtime cannot load or write it.
        """
        options = self.options()
        options.optimized_model_filepath = str(output)
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", f"{output.name}.data")
        options.add_session_config_entry("session.save_external_prepacked_constant_initializers", "1")
        self._open(path, options, contents)

    def _open(self, path: Path, options: onnxruntime.SessionOptions, contents: Contents | None) -> onnxruntime.InferenceSession:
        source = onnx_source(path, contents, options)
        try:
            return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise BackendError(f"{path}: ONNX Runtime cannot load it: {error}") from error
