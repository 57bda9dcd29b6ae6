"""OpenVINO on a CPU: a network is compiled for each set of shapes that it is bound to.

A network compiled for fixed shapes is faster than a dynamic one (`benchmarks/studies/cpu_backends.py`), but each set of shapes
has its own copy of the weights. It is kept while a bound call needs it or it is one of the last `COMPILED`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from engines.backends.contract import Contents, check_names
from engines.backends.host_memory import HostMemory, check_arrays
from engines.backends.mapped_files import release_pages
from engines.backends.processor import processor
from engines.errors import BackendError
from engines.install import install
from engines.networks import NetworkSpec
from engines.quiet import unreported

try:
    with unreported():
        import openvino
except ImportError as error:
    raise BackendError(f"openvino cannot be imported ({error}); install it with: {install('openvino')}") from None

# Sets of shapes, the latest ones, that an engine keeps compiled even when no bound call needs them.
COMPILED = 2
# Given always, for OpenVINO's own default is bfloat16 where the processor has it.
HINTS = {"float32": "f32", "bfloat16": "bf16"}

Shapes = tuple[tuple[int, ...], ...]


class OpenVinoEngine:
    """One network; `bind` ties an infer request of its own to C-contiguous numpy arrays."""

    def __init__(
        self, core: openvino.Core, model: openvino.Model, path: Path, spec: NetworkSpec, precision: str, threads: int | None
    ) -> None:
        self.spec, self._path = spec, path
        self._core, self._model, self._hint = core, model, HINTS[precision]
        # OpenVINO pins threads to the first cores, which several pipelines would share while others are idle.
        self._threads = {} if threads is None else {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}
        self._compiled: OrderedDict[Shapes, openvino.CompiledModel] = OrderedDict()

    def bind(self, **tensors: np.ndarray) -> Callable[[], None]:
        """See `engines.backends.contract.Engine.bind`. Shapes that are new to the engine are compiled here."""
        check_arrays(self.spec, tensors)
        try:
            request = self._compile(tuple(tensors[tensor.name].shape for tensor in self.spec.inputs)).create_infer_request()
            for name, array in tensors.items():
                request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
        except RuntimeError as error:
            raise BackendError(f"{self.spec.name}: OpenVINO cannot compile it for these arrays: {error}") from error
        return partial(self._run, request, tuple(tensors.values()))  # bound by address: the call keeps the arrays alive

    def _compile(self, shapes: Shapes) -> openvino.CompiledModel:
        if shapes not in self._compiled:
            model = self._model.clone()  # shares the weights
            model.reshape({tensor.name: shape for tensor, shape in zip(self.spec.inputs, shapes, strict=True)})
            hint = HINTS["float32"] if _leaves_one_column(model) else self._hint
            self._compiled[shapes] = self._core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint, **self._threads})
            release_pages(self._path)  # weights are packed for the processor now; OpenVINO keeps the file mapped
            if len(self._compiled) > COMPILED:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(shapes)
        return self._compiled[shapes]

    def _run(self, request: Any, arrays: tuple[np.ndarray, ...]) -> None:
        try:
            request.start_async()  # `infer` would make a dictionary of its results
            request.wait()
        except RuntimeError as error:
            raise BackendError(f"{self.spec.name}: OpenVINO failed: {error}") from error


def _leaves_one_column(model: openvino.Model) -> bool:
    """Whether a convolution with a stride gives a picture one column wide.

    OpenVINO 2026.4 computes these wrongly in bfloat16 on processors with AMX. Stable Diffusion has them at 64 pixels of width.
    """
    return any(
        node.get_type_name() == "Convolution" and max(node.get_attributes()["strides"]) > 1 and node.get_output_shape(0)[-1] == 1
        for node in model.get_ops()
    )


@cache
def _core() -> openvino.Core:
    """The only one of this process.

    A Core gives its thread a signal stack, and restores the previous one when it is destroyed. With two of them, the second
    destroyed can restore the first one's stack, which is unmapped by then; the next Ctrl-C is a segmentation fault.
    """
    return openvino.Core()


class OpenVinoBackend(HostMemory):
    """Loads model.onnx files; `precision` is that of the arithmetic inside networks, whose tensors stay as in the spec.

    `threads` compute, by default one for each core.

    What computes in int8 stands in the files. With "int8" all else computes in bfloat16, or in float32 on a processor without.

    Raises:
        BackendError: the processor has no such arithmetic.
    """

    name = "openvino"

    def __init__(self, precision: str, threads: int | None = None) -> None:
        self._core, self._threads = _core(), threads
        capabilities = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        has_bfloat16 = "BF16" in capabilities
        self._around = ("bfloat16" if has_bfloat16 else "float32") if precision == "int8" else precision
        computes_in = f"{precision} and {self._around}" if precision == "int8" else precision
        self.device = f"OpenVINO {openvino.__version__}, {computes_in}, CPU {processor()}"
        if precision == "bfloat16" and not has_bfloat16:
            raise BackendError(
                f"openvino: expected a processor with bfloat16 arithmetic, found {', '.join(capabilities)}; "
                "build with --precision float32"
            )

    def load(self, path: Path, spec: NetworkSpec, contents: Contents | None = None) -> OpenVinoEngine:
        """See `engines.backends.contract.Backend.load`. OpenVINO reads a file whose weights are apart by its path only."""
        content = (contents or {}).get(path.name)
        whole = isinstance(content, bytes) and len(contents or {}) == 1
        try:
            model = self._core.read_model(content, b"") if whole else self._core.read_model(path)
        except RuntimeError as error:
            raise BackendError(f"{path}: OpenVINO cannot load it: {error}") from error
        check_names(spec, (port.any_name for port in (*model.inputs, *model.outputs)))
        return OpenVinoEngine(self._core, model, path, spec, "float32" if spec.float32_only else self._around, self._threads)
