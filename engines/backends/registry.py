"""One row for each backend: how it is opened, and what the build and the loop must know of it beforehand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

from engines.backends.contract import Backend
from engines.errors import BackendError

Opener = Callable[[str, bool, int | None], Backend]  # (precision, eager, threads)
ONNX_FILE, PLAN_FILE = "model.onnx", "model.plan"
ENGINE_FILES = (ONNX_FILE, PLAN_FILE)
_BESIDE_FILES = ("open", "precisions", "extra", "libraries", "can_optimize")  # a new field decides files unless it is here


@dataclass(frozen=True)
class BackendSpec:
    """One backend.

    open             makes it, or raises BackendError
    precisions       in which it runs engines; the first is the default
    extra            of pip, that installs what it needs
    libraries        distributions besides the export's whose versions shape what is built
    plans            whether an engine is a TensorRT plan, built for a profile of shapes; else it is the ONNX file and takes any
    lowers           whether the backend computes all of a half-precision network in it; else the file says what is half
    fused_attention  whether the file uses ONNX Runtime's attention operator, where a network's row allows it
    winograd         whether the guard's wide convolutions are computed as in `saferedir.inference.winograd`; GPU libraries
                     have such kernels themselves
    rearranged       whether the model's layers are exported in the forms of `export.rearranged`
    can_optimize     whether `engines.optimize` can write a copy that loads faster
    beside_int8      what computes beside int8: the networks that are not quantised, and the rest of those that are
    half_range       whether int8 weights are -64 to 64: kernels for processors without VNNI or its like add two products in
                     16 bits, where full ones overflow
    """

    name: str
    open: Opener
    precisions: tuple[str, ...]
    extra: str
    libraries: tuple[str, ...] = ()
    plans: bool = False
    lowers: bool = False
    fused_attention: bool = False
    winograd: bool = False
    rearranged: bool = False
    can_optimize: bool = False
    beside_int8: str = "float32"
    half_range: bool = False

    @property
    def engine_file(self) -> str:
        return PLAN_FILE if self.plans else ONNX_FILE

    @property
    def file_fields(self) -> dict[str, str | bool]:
        """Name and value of all fields that decide what is in a network's file, the backend's name among them."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in _BESIDE_FILES}


def _onnxruntime(precision: str, eager: bool, threads: int | None) -> Backend:
    from engines.backends.onnxruntime_cpu import OnnxRuntimeBackend

    return OnnxRuntimeBackend(threads)


def _openvino(precision: str, eager: bool, threads: int | None) -> Backend:
    from engines.backends.openvino_cpu import OpenVinoBackend

    return OpenVinoBackend(precision, threads)


def _onnxruntime_cuda(precision: str, eager: bool, threads: int | None) -> Backend:
    from engines.backends.onnxruntime_cuda import OnnxRuntimeCudaBackend, import_onnxruntime
    from engines.cuda.device import open_cuda

    return OnnxRuntimeCudaBackend(import_onnxruntime(), open_cuda(), eager)


def _tensorrt(name: str) -> Opener:
    def make(precision: str, eager: bool, threads: int | None) -> Backend:
        from engines.backends.tensorrt_family import TensorRTBackend
        from engines.backends.tensorrt_module import import_tensorrt
        from engines.cuda.device import open_cuda

        cuda = open_cuda()  # before the library, whose lean runtime crashes in use where there is no driver
        return TensorRTBackend(name, import_tensorrt(name), cuda, eager)

    return make


_ALL = ("float32", "float16", "bfloat16", "int8")
BACKENDS = {
    spec.name: spec
    for spec in (
        BackendSpec(
            "onnxruntime",
            _onnxruntime,
            ("float32", "int8"),
            extra="onnxruntime",
            libraries=("onnxruntime",),
            fused_attention=True,
            winograd=True,
            can_optimize=True,
            half_range=True,
        ),
        BackendSpec(
            "openvino",
            _openvino,
            ("float32", "bfloat16", "int8"),
            extra="openvino",
            libraries=("openvino",),
            winograd=True,
            rearranged=True,
            lowers=True,
            beside_int8="bfloat16",
            half_range=True,
        ),
        BackendSpec(
            "onnxruntime-cuda",
            _onnxruntime_cuda,
            ("float32", "float16"),
            extra="onnxruntime-gpu",
            fused_attention=True,
        ),
        *(
            BackendSpec(name, _tensorrt(name), _ALL, extra=name, plans=True, beside_int8="bfloat16")
            for name in ("tensorrt", "tensorrt-rtx")
        ),
    )
}


def backend_spec(name: str) -> BackendSpec:
    """The row of a backend.

    Raises:
        BackendError: there is none of this name.
    """
    if name not in BACKENDS:
        raise BackendError(f"backend: expected one of {', '.join(BACKENDS)}, found {name!r}")
    return BACKENDS[name]


def open_backend(name: str, precision: str = "float32", eager: bool = False, threads: int | None = None) -> Backend:
    """The backend that a manifest names.

    `eager`: launch every network by itself where a CUDA graph would be replayed. `threads`: that compute on a CPU; by default one
    for each core. A GPU's backend has no use for them.

    Raises:
        BackendError: unknown, its library is not installed, it needs a GPU that is not there, or it does not run in this
            precision.
    """
    spec = backend_spec(name)
    if precision not in spec.precisions:
        raise BackendError(f"{name}: expected precision {' or '.join(spec.precisions)}, found {precision!r}")
    return spec.open(precision, eager, threads)
