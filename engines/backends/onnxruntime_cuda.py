"""ONNX Runtime on an NVIDIA GPU: model.onnx files with the CUDA execution provider, one CUDA graph for each network.

A graph of ONNX Runtime replays on the memory it was captured with, so a session has arrays of its own, and a call copies
to and from them on the device. All sessions share one stream. The runs are asked not to wait for it
(`disable_synchronize_execution_providers`); for graph replays, ONNX Runtime has respected that since its pull request
28686 of May 2026; earlier releases wait after every replay.
"""

from __future__ import annotations

import importlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from engines.backends.contract import Contents, check_names, check_tensors
from engines.backends.onnx_source import onnx_source
from engines.backends.program import Execution, InTurn, Step
from engines.cuda.device import Cuda, DeviceArray
from engines.errors import BackendError
from engines.install import install
from engines.networks import NetworkSpec

PROVIDER = "CUDAExecutionProvider"
SESSIONS = 2  # shapes of one network whose sessions are kept: each has its own copy of the weights


def import_onnxruntime() -> Any:
    """ONNX Runtime with its CUDA provider, and the CUDA libraries of NVIDIA's packages where such are installed.

    Raises:
        BackendError: not installed, or a build without CUDA.
    """
    try:
        ort = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise BackendError(f"onnxruntime cannot be imported ({error}); install it with: {install('onnxruntime-gpu')}") from None
    if PROVIDER not in (providers := ort.get_available_providers()):
        raise BackendError(
            f"onnxruntime {ort.__version__}: expected {PROVIDER}, found {', '.join(providers)}; install it with: "
            f"pip uninstall onnxruntime && {install('onnxruntime-gpu')}"
        )
    with redirect_stdout(StringIO()):  # it prints what it misses: the first session tells
        ort.preload_dlls()
    return ort


class _Session:
    """A session with all dimensions fixed, its arrays, and the graph that it captures at its first run."""

    def __init__(
        self,
        backend: OnnxRuntimeCudaBackend,
        path: Path,
        spec: NetworkSpec,
        shapes: dict[str, tuple[int, ...]],
        contents: Contents | None,
    ) -> None:
        ort, self._cuda, self._stream, self._spec = backend.ort, backend.cuda, backend.stream, spec
        options = ort.SessionOptions()
        options.log_severity_level = 3
        for tensor in spec.inputs:
            for axis, symbol in tensor.dynamic_axes.items():
                options.add_free_dimension_override_by_name(symbol, shapes[tensor.name][axis])
        settings = {
            "user_compute_stream": str(int(self._stream)),
            "enable_cuda_graph": "0" if backend.eager else "1",
            "use_tf32": "0",
        }
        source = onnx_source(path, contents, options)
        try:
            self._session = ort.InferenceSession(source, options, providers=[(PROVIDER, settings)])
        except Exception as error:  # ONNX Runtime raises a class of its own for each status code
            raise BackendError(f"{path}: ONNX Runtime cannot load it: {error}") from error
        if PROVIDER not in (providers := self._session.get_providers()):  # without CUDA's libraries it goes on on the CPU
            raise BackendError(
                f"onnxruntime {ort.__version__}: expected {PROVIDER}, found {', '.join(providers)} after it could not load "
                f"CUDA's libraries; install them with: {install('onnxruntime-gpu')}"
            )
        check_names(spec, [value.name for value in (*self._session.get_inputs(), *self._session.get_outputs())])
        self._arrays = {tensor.name: self._cuda.zeros(shapes[tensor.name], tensor.dtype) for tensor in spec.tensors}
        self._binding = self._session.io_binding()
        for tensors, bind in ((spec.inputs, self._binding.bind_input), (spec.outputs, self._binding.bind_output)):
            for tensor in tensors:
                array = self._arrays[tensor.name]
                bind(tensor.name, "cuda", 0, array.dtype.type, list(array.shape), array.address)
        self._options = ort.RunOptions()
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def run(self, tensors: dict[str, DeviceArray]) -> None:
        """Copy the inputs in, run, copy the outputs out, all on the backend's stream."""
        for tensor in self._spec.inputs:
            self._cuda.copy(self._arrays[tensor.name], tensors[tensor.name], self._stream)
        try:
            self._session.run_with_iobinding(self._binding, self._options)
        except Exception as error:
            raise BackendError(f"{self._spec.name}: ONNX Runtime failed: {error}") from error
        for tensor in self._spec.outputs:
            self._cuda.copy(tensors[tensor.name], self._arrays[tensor.name], self._stream)


class OnnxRuntimeCudaEngine:
    """One network; a session is made for each set of shapes when it is first bound."""

    def __init__(self, backend: OnnxRuntimeCudaBackend, path: Path, spec: NetworkSpec, contents: Contents | None) -> None:
        self.spec, self._backend, self._path, self._contents = spec, backend, path, contents
        self._sessions: OrderedDict[tuple[tuple[int, ...], ...], _Session] = OrderedDict()

    def bind(self, **tensors: DeviceArray) -> Callable[[], None]:
        """See `engines.backends.contract.Engine.bind`."""
        check_tensors(self.spec, tensors)
        shapes = {tensor.name: tensors[tensor.name].shape for tensor in self.spec.tensors}
        key = tuple(shapes.values())
        if key not in self._sessions:
            self._sessions[key] = _Session(self._backend, self._path, self.spec, shapes, self._contents)
            if len(self._sessions) > SESSIONS:
                self._sessions.popitem(last=False)
        self._sessions.move_to_end(key)
        return partial(self._sessions[key].run, dict(tensors))


class OnnxRuntimeCudaBackend:
    """Loads model.onnx files; memory and the stream are those of `cuda`. `eager`: no CUDA graphs."""

    name = "onnxruntime-cuda"
    on_host = False

    def __init__(self, ort: Any, cuda: Cuda, eager: bool = False) -> None:
        self.ort, self.cuda, self.eager = ort, cuda, eager
        self.stream = cuda.stream()
        self.device = f"ONNX Runtime {ort.__version__}, {cuda.info()}"

    def load(self, path: Path, spec: NetworkSpec, contents: Contents | None = None) -> OnnxRuntimeCudaEngine:
        """See `engines.backends.contract.Backend.load`; what has not been read is read when its shapes are known."""
        return OnnxRuntimeCudaEngine(self, path, spec, contents)

    def used_memory(self) -> int:
        return self.cuda.used_memory()

    def zeros(self, shape: tuple[int, ...], dtype: str, rows: bool = False) -> DeviceArray:
        return self.cuda.zeros(shape, dtype, rows)

    def write(self, array: DeviceArray, values: Any) -> None:
        self.cuda.write(array, values, self.stream)

    def read(self, array: DeviceArray) -> np.ndarray:
        return self.cuda.read(array, self.stream)

    def program(self, steps: Sequence[Step]) -> InTurn:
        """See `engines.backends.contract.Backend.program`."""
        reason = "eager execution was asked for" if self.eager else "ONNX Runtime captures a graph for each network"
        return InTurn(steps, Execution(reason=reason))

    def __del__(self) -> None:
        if (stream := self.__dict__.pop("stream", None)) is not None:
            self.cuda.release("cudaStreamDestroy", stream)
