"""Builds a TensorRT or TensorRT-RTX plan from an ONNX file. The TensorRT module is an argument."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engines.backends.tensorrt_module import error_log
from engines.errors import SafeRedirError
from engines.geometry import Geometry
from engines.networks import NetworkSpec
from engines.store.atomic import replacing
from export.tensorrt.shape_profile import Profile

TARGETS = ("86", "89", "120")  # compute capabilities that --target-sm takes, without the dot
COMPATIBILITY = {"none": "NONE", "ampere-plus": "AMPERE_PLUS", "same-compute-capability": "SAME_COMPUTE_CAPABILITY"}
Phase = Callable[[str], None]  # what the builder is doing


class PlanError(SafeRedirError):
    """TensorRT cannot read a network, or cannot build it; the text has its own messages."""


@dataclass(frozen=True)
class PlanOptions:
    """How to build.

    workspace_gib           GiB of scratch memory that the builder may plan with; None for all that there is
    optimization_level      the builder's effort, 0 to 5; None for its default
    target_sm               TensorRT-RTX: compute capabilities; empty for a portable engine (8.0 and later)
    hardware_compatibility  TensorRT: a key of `COMPATIBILITY`
    version_compatible      TensorRT: also for other releases and for the lean runtime, which is not put into the plan
    timing_cache            TensorRT: file with the timings of earlier builds; read if it is there, and written
    """

    workspace_gib: float | None = None
    optimization_level: int | None = None
    target_sm: tuple[str, ...] = ()
    hardware_compatibility: str = "none"
    version_compatible: bool = False
    timing_cache: Path | None = None


@dataclass(frozen=True)
class PlanJob:
    """One network to build: the ONNX file, its spec, the shapes, where the plan goes, and K."""

    onnx_file: Path
    spec: NetworkSpec
    profile: Profile
    geometry: Geometry
    plan: Path
    concepts: int = 1


def build_plan(trt: Any, job: PlanJob, options: PlanOptions, report: Phase = lambda phase: None) -> None:
    """Write a strongly typed plan whose tensors are the spec's, atomically. `report` is told what the builder is doing.

    Raises:
        PlanError: the parser or the builder failed, or the built network's tensors are not the spec's.
        KeyboardInterrupt: once TensorRT has stopped after an interrupt.
    """
    log, name, monitor = error_log(trt), job.spec.name, _monitor(trt, report)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    with _interrupting(monitor):
        parsed = parser.parse_from_file(str(job.onnx_file))
    if not parsed:
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        raise PlanError(
            f"{name}: TensorRT cannot read {job.onnx_file.name}: "
            + "; ".join(f"node {error.node_name() or error.node()} ({error.node_operator()}): {error.desc()}" for error in errors)
        )
    config = builder.create_builder_config()
    _configure(trt, config, options)
    _add_profile(builder, config, job)
    config.progress_monitor = monitor
    with _timing_cache(config, options.timing_cache), _interrupting(monitor):
        serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise PlanError(f"{name}: TensorRT cannot build it: {log.take()}")
    _check(trt, network, job)
    with replacing(job.plan) as temporary, open(temporary, "wb") as file:
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
    config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, COMPATIBILITY[options.hardware_compatibility])
    flags = trt.BuilderFlag
    if options.version_compatible:
        config.set_flag(flags.VERSION_COMPATIBLE)
        config.set_flag(flags.EXCLUDE_LEAN_RUNTIME)
    # x − x may not become 0: NaN and infinity must reach the outputs that report them.
    config.set_flag(flags.STRICT_NANS)
    # Without it, TensorRT-RTX engines cannot be captured in a CUDA graph.
    if hasattr(flags, "REQUIRE_USER_ALLOCATION"):
        config.set_flag(flags.REQUIRE_USER_ALLOCATION)
    # float32 means float32. The flag is on by default, and TensorRT-RTX keeps it.
    if hasattr(flags, "TF32"):
        config.clear_flag(flags.TF32)


@contextmanager
def _timing_cache(config: Any, path: Path | None) -> Iterator[None]:
    """Let a build use the timings in a file, and add its own."""
    if path is None:
        yield
        return
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    # A cache of another GPU or release is refused here, and starts empty.
    if cache is None or not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    yield
    with replacing(path) as temporary:
        temporary.write_bytes(config.get_timing_cache().serialize())


def _add_profile(builder: Any, config: Any, job: PlanJob) -> None:
    shapes = builder.create_optimization_profile()
    for tensor in job.spec.inputs:
        if tensor.dynamic_axes:
            shapes.set_shape(tensor.name, *job.profile.shapes(tensor, job.geometry, job.concepts))
    if config.add_optimization_profile(shapes) < 0:
        raise PlanError(
            f"{job.spec.name}: TensorRT refuses the optimisation profile for batch {job.profile.batch}, height "
            f"{job.profile.height}, width {job.profile.width}"
        )


def _check(trt: Any, network: Any, job: PlanJob) -> None:
    """Raise PlanError unless the parsed network has the spec's names, dtypes and dimensions; −1 stands for one that may change."""
    built = [network.get_input(index) for index in range(network.num_inputs)]
    built += [network.get_output(index) for index in range(network.num_outputs)]
    tensors = [(tensor.name, np.dtype(trt.nptype(tensor.dtype)).name, tuple(tensor.shape)) for tensor in built]
    sizes = {"D": job.geometry.embed_dim, "G": job.geometry.time_cond_proj_dim, "K": job.concepts}
    expected = [
        (tensor.name, tensor.dtype, tuple(dim if isinstance(dim, int) else sizes.get(dim, -1) for dim in tensor.dims))
        for tensor in job.spec.tensors
    ]
    if tensors != expected:
        raise PlanError(f"{job.spec.name}: expected tensors {expected}, TensorRT built {tensors}")


def _monitor(trt: Any, report: Phase) -> Any:
    class Monitor(trt.IProgressMonitor):
        """Tells the outermost phase and how much of it is done, and ends a build that was interrupted."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.interrupted = False
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self._steps[phase_name] = num_steps
                report(phase_name)

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self._steps:
                report(f"{phase_name} {step + 1}/{self._steps[phase_name]}")
            return not self.interrupted

    return Monitor()


@contextmanager
def _interrupting(monitor: Any) -> Iterator[None]:
    """Turn Ctrl-C into the monitor's flag, raised at the end: TensorRT drops an exception that passes through its own frames."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, lambda *_: setattr(monitor, "interrupted", True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
    if monitor.interrupted:
        raise KeyboardInterrupt
