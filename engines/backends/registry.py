"""Every backend by name: who opens it, and the precisions in which it runs engines."""

from __future__ import annotations

from collections.abc import Callable

from engines.backends.contract import Backend
from engines.errors import BackendError


def _onnxruntime(precision: str, eager: bool) -> Backend:
    from engines.backends.onnxruntime_cpu import OnnxRuntimeBackend

    return OnnxRuntimeBackend()


def _openvino(precision: str, eager: bool) -> Backend:
    from engines.backends.openvino_cpu import OpenVinoBackend

    return OpenVinoBackend(precision)


def _onnxruntime_cuda(precision: str, eager: bool) -> Backend:
    from engines.backends.onnxruntime_cuda import OnnxRuntimeCudaBackend, import_onnxruntime
    from engines.cuda.device import open_cuda

    return OnnxRuntimeCudaBackend(import_onnxruntime(), open_cuda(), eager)


def _tensorrt(name: str) -> Callable[[str, bool], Backend]:
    def make(precision: str, eager: bool) -> Backend:
        from engines.backends.tensorrt_family import TensorRTBackend
        from engines.backends.tensorrt_module import import_tensorrt
        from engines.cuda.device import open_cuda

        cuda = open_cuda()  # before the library, whose lean runtime crashes in use where there is no driver
        return TensorRTBackend(name, import_tensorrt(name), cuda, eager)

    return make


BACKENDS: dict[str, Callable[[str, bool], Backend]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "onnxruntime-cuda": _onnxruntime_cuda,
    "tensorrt": _tensorrt("tensorrt"),
    "tensorrt-rtx": _tensorrt("tensorrt-rtx"),
}
PRECISIONS = {
    "onnxruntime": ("float32",),
    "openvino": ("float32", "bfloat16"),
    "onnxruntime-cuda": ("float32",),
    **dict.fromkeys(("tensorrt", "tensorrt-rtx"), ("float32", "float16", "bfloat16")),
}


def open_backend(name: str, precision: str = "float32", eager: bool = False) -> Backend:
    """The backend that a manifest names. `eager`: launch every network by itself where a CUDA graph would be replayed.

    Raises:
        BackendError: unknown, its library is not installed, it needs a GPU that is not there, or it does not run in this
            precision.
    """
    if name not in BACKENDS:
        raise BackendError(f"backend: expected one of {', '.join(BACKENDS)}, found {name!r}")
    if precision not in PRECISIONS[name]:
        raise BackendError(f"{name}: expected precision {' or '.join(PRECISIONS[name])}, found {precision!r}")
    return BACKENDS[name](precision, eager)
