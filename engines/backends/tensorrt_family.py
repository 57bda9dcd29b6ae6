"""TensorRT, its lean runtime and TensorRT-RTX: plans on one GPU through cuda-python. The TensorRT module is an argument."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from engines.backends.contract import Contents, check_names, check_tensors
from engines.backends.program import Step
from engines.backends.tensorrt_module import error_log
from engines.cuda.device import Cuda, DeviceArray, Memory
from engines.cuda.graph import CudaProgram, Lanes
from engines.cuda.kernel_cache import KernelCache
from engines.errors import BackendError, InputError
from engines.networks import NetworkSpec

Shapes = dict[str, tuple[int, ...]]


class _Context:
    """An execution context for one set of shapes: shared by all calls of these shapes, freed with the last of them."""

    def __init__(self, context: Any, spec: NetworkSpec, shapes: Shapes) -> None:
        """Raises BackendError if the shapes of inputs and outputs do not belong together."""
        self.context = context
        self._scratch: Memory | None = None
        for tensor in spec.inputs:
            if not context.set_input_shape(tensor.name, shapes[tensor.name]):
                raise BackendError(f"{spec.name}.{tensor.name}: TensorRT refuses the shape {list(shapes[tensor.name])}")
        if unspecified := context.infer_shapes():
            raise BackendError(f"{spec.name}: TensorRT needs more than shapes for {', '.join(unspecified)}")
        for tensor in spec.outputs:
            if (expected := tuple(context.get_tensor_shape(tensor.name))) != shapes[tensor.name]:
                raise BackendError(
                    f"{spec.name}.{tensor.name}: expected {list(expected)} for these inputs, found {list(shapes[tensor.name])}"
                )
        self.scratch_size = context.update_device_memory_size_for_shapes()

    def use(self, scratch: Memory) -> None:
        """Work in this memory from the next enqueue on."""
        if scratch is not self._scratch:
            self.context.set_device_memory(scratch.address, scratch.size)
            self._scratch = scratch


class TensorRTCall:
    """A network bound to arrays of the device."""

    def __init__(self, engine: TensorRTEngine, context: _Context, arrays: dict[str, DeviceArray]) -> None:
        self._engine, self._context, self._arrays = engine, context, arrays
        self.scratch_size = context.scratch_size

    def __call__(self) -> None:
        self._engine.lanes.run(self)

    def enqueue(self, stream: Any, scratch: Memory) -> None:
        """See `engines.cuda.graph.CudaCall`."""
        self._context.use(scratch)
        context = self._context.context
        for name, array in self._arrays.items():
            context.set_tensor_address(name, array.address)
        if not context.execute_async_v3(int(stream)):
            raise BackendError(f"{self._engine.spec.name}: TensorRT failed: {self._engine.log.take()}")

    def capturable(self, stream: Any) -> bool:
        """TensorRT-RTX can tell; TensorRT captures every network without shapes that depend on data."""
        ask = getattr(self._context.context, "is_stream_capturable", None)
        return ask is None or ask(int(stream))


class TensorRTEngine:
    """One deserialised plan; `bind` ties its tensors to arrays of the device."""

    def __init__(self, engine: Any, spec: NetworkSpec, backend: TensorRTBackend) -> None:
        self.spec, self.lanes, self.log = spec, backend.lanes, backend.log
        self._engine, self._backend = engine, backend
        self._contexts: WeakValueDictionary[tuple[tuple[int, ...], ...], _Context] = WeakValueDictionary()

    def bind(self, **tensors: DeviceArray) -> TensorRTCall:
        """See `engines.backends.contract.Engine.bind`.

        Raises:
            InputError: also for a shape outside the engine's optimisation profile.
        """
        check_tensors(self.spec, tensors)
        for tensor in self.spec.inputs:
            if tensor.dynamic_axes:
                self._check_profile(tensor.name, tensors[tensor.name].shape)
        return TensorRTCall(self, self._context({name: array.shape for name, array in tensors.items()}), dict(tensors))

    def _check_profile(self, name: str, shape: tuple[int, ...]) -> None:
        smallest, _, largest = (tuple(dims) for dims in self._engine.get_tensor_profile_shape(name, 0))
        if not all(low <= size <= high for low, size, high in zip(smallest, shape, largest, strict=True)):
            raise InputError(
                f"{self.spec.name}.{name}: expected {list(smallest)} to {list(largest)}, the shapes that the engine "
                f"was built for, found {list(shape)}; build it for others with: saferedir build "
                "--batch-size, --height, --width MIN:OPT:MAX"
            )

    def _context(self, shapes: Shapes) -> _Context:
        key = tuple(shapes[tensor.name] for tensor in self.spec.tensors)
        context = self._contexts.get(key)
        if context is None:
            if (made := self._backend.create_context(self._engine)) is None:
                raise BackendError(f"{self.spec.name}: TensorRT cannot make an execution context: {self.log.take()}")
            context = self._contexts[key] = _Context(made, self.spec, shapes)
        return context


class TensorRTBackend:
    """Loads model.plan files; memory, streams and graphs are those of `cuda`. `eager`: no CUDA graph."""

    on_host = False

    def __init__(self, name: str, trt: Any, cuda: Cuda, eager: bool = False) -> None:
        self.name, self._trt, self._cuda, self._eager = name, trt, cuda, eager
        self.lanes = Lanes(cuda)
        self.log = error_log(trt)
        self._runtime = trt.Runtime(self.log)
        gpu = cuda.info()
        self.device = f"{name} {trt.__version__}, {gpu}"
        self._kernels = KernelCache.of(trt.__version__, gpu.name) if hasattr(trt, "IRuntimeCache") else None

    def load(self, path: Path, spec: NetworkSpec, contents: Contents | None = None) -> TensorRTEngine:
        """See `engines.backends.contract.Backend.load`."""
        if (plan := (contents or {}).get(path.name)) is None:
            with open(path, "rb") as file:
                plan = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._check_device(path, plan)
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise BackendError(
                f"{path}: cannot be loaded by {self.device}: {self.log.take()}; "
                "build it for this machine with: saferedir build --force"
            )
        check_names(spec, [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)])
        for tensor in spec.tensors:
            dtype = np.dtype(self._trt.nptype(engine.get_tensor_dtype(tensor.name))).name
            if dtype != tensor.dtype:
                raise BackendError(f"{spec.name}.{tensor.name}: expected {tensor.dtype}, the engine has {dtype}")
        return TensorRTEngine(engine, spec, self)

    def _check_device(self, path: Path, plan: bytes | mmap.mmap) -> None:
        """Ask TensorRT-RTX, before it reads the plan, whether it suits this GPU."""
        if not hasattr(self._runtime, "get_engine_validity"):
            return
        validity, bits = self._runtime.get_engine_validity(plan)
        if validity == self._trt.EngineValidity.INVALID:
            reasons = self._trt.EngineInvalidityDiagnostics.__members__.items()
            found = ", ".join(name for name, bit in reasons if int(bit) & int(bits))
            raise BackendError(f"{path}: cannot run on {self.device} ({found}); {self._target()}")

    def _target(self) -> str:
        """What gives TensorRT-RTX engines that run on this GPU. The data center's GPUs since Hopper are not among its targets."""
        sm = self._cuda.info().compute_capability.replace(".", "")
        if f"SM{sm}" in self._trt.ComputeCapability.__members__:
            return f"build it for this device with: saferedir build --backend tensorrt-rtx --target-sm {sm}"
        return "TensorRT-RTX cannot build for this GPU, build with: saferedir build --backend tensorrt, or onnxruntime-cuda"

    def create_context(self, engine: Any) -> Any:
        """An execution context whose scratch memory we provide, or None where TensorRT cannot make one."""
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if self._kernels is None:
            return engine.create_execution_context(strategy)
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        # The loop's own graph takes the place of TensorRT-RTX's, and must not capture a fallback kernel.
        config.cuda_graph_strategy = self._trt.CudaGraphStrategy.DISABLED
        config.dynamic_shapes_kernel_specialization_strategy = self._trt.DynamicShapesKernelSpecializationStrategy.EAGER
        self._kernels.attach(config)
        return engine.create_execution_context(config)

    def used_memory(self) -> int:
        return self._cuda.used_memory()

    def zeros(self, shape: tuple[int, ...], dtype: str, rows: bool = False) -> DeviceArray:
        return self._cuda.zeros(shape, dtype, rows)

    def write(self, array: DeviceArray, values: Any) -> None:
        self._cuda.write(array, values, self.lanes.main)

    def read(self, array: DeviceArray) -> np.ndarray:
        values = self._cuda.read(array, self.lanes.main)
        if self._kernels is not None:
            self._kernels.save()
        return values

    def program(self, steps: Sequence[Step]) -> CudaProgram:
        """See `engines.backends.contract.Backend.program`."""
        calls: Any = steps  # calls of this backend's own engines
        return CudaProgram(self.lanes, calls, self._eager)
