"""Builds a TensorRT or TensorRT-RTX plan from an ONNX file. One builder: the TensorRT module is an argument."""
from __future__ import annotations

import importlib
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.atomic import replacing
from engines.errors import BackendError, SafeRedirError
from engines.manifest import Geometry
from engines.specs import NetworkSpec
from export.shape_profile import Profile

TARGETS = ("86", "89", "120")  # compute capabilities that --target-sm takes, without the dot
MODULES = {"tensorrt-rtx": "tensorrt_rtx_bindings"}
DTYPES = {"FLOAT": "float32", "INT32": "int32", "INT64": "int64", "UINT8": "uint8", "BOOL": "bool"}  # of the specs


def import_tensorrt(backend: str) -> Any:
    """The module of a backend.

    Raises:
        BackendError: it is not installed.
    """
    try:
        return importlib.import_module(MODULES[backend])
    except ImportError as error:
        raise BackendError(f"{backend}: expected the module {MODULES[backend]}, found none ({error}); install it with: "
                           f'pip install -e ".[{backend}]"') from None


class PlanError(SafeRedirError):
    """TensorRT cannot read a network, or cannot build it; the text has its own messages."""


@dataclass(frozen=True)
class PlanOptions:
    """How to build. `target_sm` is empty for a portable engine (TensorRT-RTX: compute capability 8.0 and later)."""

    workspace_gib: float | None = None
    optimization_level: int | None = None
    target_sm: tuple[str, ...] = ()


def build_plan(trt: Any, onnx_file: Path, spec: NetworkSpec, profile: Profile, geometry: Geometry, options: PlanOptions,
               plan: Path) -> None:
    """Write a strongly typed plan whose tensors are the spec's, atomically.

    Raises:
        PlanError: the parser or the builder failed, or the built network's tensors are not the spec's.
        KeyboardInterrupt: once TensorRT has stopped after an interrupt.
    """
    log = _logger(trt)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx_file)):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        raise PlanError(f"{spec.name}: TensorRT cannot read {onnx_file.name}: " + "; ".join(
            f"node {error.node_name() or error.node()} ({error.node_operator()}): {error.desc()}" for error in errors))
    config = builder.create_builder_config()
    _configure(trt, config, options)
    _add_profile(builder, config, spec, profile, geometry)
    monitor = _monitor(trt)
    config.progress_monitor = monitor
    with _interrupting(monitor):
        serialized = builder.build_serialized_network(network, config)
    if monitor.interrupted:
        raise KeyboardInterrupt
    if serialized is None:
        raise PlanError(f"{spec.name}: TensorRT cannot build it: " + ("; ".join(log.errors) or "it gave no reason"))
    _check(network, spec)
    with replacing(plan) as temporary, open(temporary, "wb") as file:
        file.write(serialized)


def _configure(trt: Any, config: Any, options: PlanOptions) -> None:
    if options.workspace_gib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(options.workspace_gib * 2**30))
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.target_sm:
        config.num_compute_capabilities = len(options.target_sm)
        for index, target in enumerate(options.target_sm):
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{target}"), index)
    # float32 means float32. The flag is on by default, and TensorRT-RTX keeps it.
    if hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)


def _add_profile(builder: Any, config: Any, spec: NetworkSpec, profile: Profile, geometry: Geometry) -> None:
    shapes = builder.create_optimization_profile()
    for tensor in spec.inputs:
        if tensor.dynamic_axes:
            shapes.set_shape(tensor.name, *profile.shapes(tensor, geometry))
    if config.add_optimization_profile(shapes) < 0:
        raise PlanError(f"{spec.name}: TensorRT refuses the optimisation profile for batch {profile.batch}, height "
                        f"{profile.height}, width {profile.width}")


def _check(network: Any, spec: NetworkSpec) -> None:
    tensors = [network.get_input(index) for index in range(network.num_inputs)]
    tensors += [network.get_output(index) for index in range(network.num_outputs)]
    found = [(tensor.name, DTYPES.get(tensor.dtype.name, tensor.dtype.name)) for tensor in tensors]
    expected = [(tensor.name, tensor.dtype) for tensor in spec.tensors]
    if found != expected:
        raise PlanError(f"{spec.name}: expected tensors {expected}, TensorRT built {found}")


def _logger(trt: Any) -> Any:
    class Log(trt.ILogger):
        """Keeps what went wrong, for the error that follows."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message.strip())
    return Log()


def _monitor(trt: Any) -> Any:
    class Monitor(trt.IProgressMonitor):
        """Ends a build that was interrupted."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.interrupted = False

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None: ...

        def phase_finish(self, phase_name: str) -> None: ...

        def step_complete(self, phase_name: str, step: int) -> bool:
            return not self.interrupted
    return Monitor()


@contextmanager
def _interrupting(monitor: Any) -> Iterator[None]:
    """Turn Ctrl-C into the monitor's flag: an exception must not cross TensorRT's own frames."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, lambda *_: setattr(monitor, "interrupted", True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
