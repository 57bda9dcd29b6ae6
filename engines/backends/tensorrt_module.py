"""The TensorRT family's Python modules: TensorRT, its lean runtime, and TensorRT-RTX have one API and are told apart here."""

from __future__ import annotations

import importlib
from typing import Any

from engines.errors import BackendError
from engines.install import install

# Names under which a backend's module can be installed, best first: NVIDIA's meta packages, then the wheels that they depend on.
BUILDERS: dict[str, tuple[str, ...]] = {
    "tensorrt": ("tensorrt", "tensorrt_bindings"),
    "tensorrt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}
RUNTIMES = {
    "tensorrt": (*BUILDERS["tensorrt"], "tensorrt_lean", "tensorrt_lean_bindings"),
    "tensorrt-rtx": BUILDERS["tensorrt-rtx"],
}
INSTALL = {
    "tensorrt": f"{install('tensorrt')} (or, to run version-compatible engines only, {install('tensorrt-lean')})",
    "tensorrt-rtx": install("tensorrt-rtx"),
}


def import_tensorrt(backend: str, modules: dict[str, tuple[str, ...]] = RUNTIMES) -> Any:
    """The first module of a backend that can be imported, out of `RUNTIMES` or `BUILDERS`.

    Raises:
        BackendError: none can.
    """
    reasons = []
    for name in modules[backend]:
        try:
            return importlib.import_module(name)
        except ImportError as error:
            reasons.append(str(error))
    raise BackendError(
        f"{backend}: expected one of the modules {', '.join(modules[backend])}, found none ({reasons[0]}); "
        f"install it with: {INSTALL[backend]}"
    )


def error_log(trt: Any) -> Any:
    """A logger that keeps in `errors` what went wrong, for the exception that follows."""

    class ErrorLog(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message.strip())

        def take(self) -> str:
            """Everything since the last call, as one line."""
            errors, self.errors = self.errors, []
            return "; ".join(errors) or "it gave no reason"

    return ErrorLog()
