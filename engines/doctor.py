"""Which backends can run on this machine, and why the others cannot"""

from __future__ import annotations

import argparse
import platform
from importlib.util import find_spec

from engines.backends.registry import BACKENDS, open_backend
from engines.backends.tensorrt_module import BUILDERS, import_tensorrt
from engines.errors import BackendError
from engines.install import install

EXPORT_MODULES = ("torch", "diffusers", "transformers", "onnx")


def runs(backend: str) -> tuple[bool, str]:
    """Whether engines of a backend can run here: on what and in which precisions, or the reason why not."""
    devices: dict[str, str] = {}
    reasons: list[str] = []
    for precision in BACKENDS[backend].precisions:
        try:
            devices[precision] = open_backend(backend, precision).device
        except BackendError as error:
            reasons.append(str(error))
    if not devices:
        return False, reasons[0]
    return True, f"{next(iter(devices.values()))}; precisions {', '.join(devices)}"


def builds(backend: str) -> tuple[bool, str]:
    """Whether engines of a backend can be built here, or the reason why not."""
    if missing := [name for name in EXPORT_MODULES if find_spec(name) is None]:
        return False, (f"expected {', '.join(missing)}, found them not installed; install them with: {install('export')}")
    try:
        return True, import_tensorrt(backend, BUILDERS).__name__ if backend in BUILDERS else ""
    except BackendError as error:
        return False, str(error)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command has no options."""


def run(arguments: argparse.Namespace) -> int:
    """Print two lines for each backend; exit status 0.

    Raises:
        BackendError: no backend can run.
    """
    print(f"{platform.system()} {platform.machine()}, Python {platform.python_version()}")
    able = False
    for backend in BACKENDS:
        for verb, (works, text) in (("runs", runs(backend)), ("builds", builds(backend))):
            able |= works and verb == "runs"
            print(f"{backend:<17} {verb:<7} {'yes' if works else 'no '}  {text}".rstrip())
    if not able:
        raise BackendError(f"expected a backend that runs here, found none; for a CPU install it with: {install('onnxruntime')}")
    return 0
