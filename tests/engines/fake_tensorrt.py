"""A TensorRT whose plans are ONNX files, run by ONNX Runtime on the memory of a FakeRuntime.

Each class has the methods of its namesake in TensorRT that our backend calls and no others, so a test can hold them
against the real modules.
"""

from __future__ import annotations

from enum import Enum, IntEnum

import numpy as np
import onnxruntime

from tests.engines.fake_cuda import FakeRuntime

NUMPY = {
    "tensor(float)": "float32",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}
LARGEST = 64  # of every dynamic axis


class ILogger:
    ERROR, INTERNAL_ERROR = "error", "internal error"

    def __init__(self) -> None:
        pass


class ExecutionContextAllocationStrategy(Enum):
    STATIC, ON_PROFILE_CHANGE, USER_MANAGED = range(3)


class CudaGraphStrategy(Enum):
    DISABLED, WHOLE_GRAPH_CAPTURE = range(2)


class DynamicShapesKernelSpecializationStrategy(Enum):
    LAZY, EAGER, NONE = range(3)


class EngineValidity(Enum):
    VALID, SUBOPTIMAL, INVALID = range(3)


class EngineInvalidityDiagnostics(IntEnum):
    VERSION_MISMATCH, UNSUPPORTED_CC, OLD_CUDA_DRIVER = 1, 2, 4


class ComputeCapability(IntEnum):
    SM86, SM89, SM120 = 86, 89, 120


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine, self._shapes, self._addresses, self._memory = engine, {}, {}, None

    def set_input_shape(self, name, shape):
        self._shapes[name] = tuple(shape)
        return True

    def infer_shapes(self):
        session = self._engine._session
        zeros = {value.name: np.zeros(self._shapes[value.name], NUMPY[value.type]) for value in session.get_inputs()}
        self._shapes |= {
            value.name: found.shape for value, found in zip(session.get_outputs(), session.run(None, zeros), strict=True)
        }
        return []

    def get_tensor_shape(self, name):
        return list(self._shapes[name])

    def update_device_memory_size_for_shapes(self):
        return 1000 * max(
            self._shapes[value.name][0] if self._shapes[value.name] else 1 for value in self._engine._session.get_inputs()
        )

    def set_device_memory(self, memory, size):
        assert size >= self.update_device_memory_size_for_shapes()
        self._memory = int(memory), int(size)

    def set_tensor_address(self, name, memory):
        assert int(memory) % 256 == 0, f"{name}: TensorRT wants addresses that are multiples of 256"
        self._addresses[name] = int(memory)
        return True

    def execute_async_v3(self, stream_handle):
        assert isinstance(stream_handle, int)
        engine, addresses, scratch = self._engine, dict(self._addresses), self._memory
        if engine._fails:
            engine._log.log(ILogger.ERROR, "the kernel was in a bad mood")
            return False
        dtypes = {value.name: NUMPY[value.type] for value in (*engine._session.get_inputs(), *engine._session.get_outputs())}
        views = {name: engine._cuda.view(addresses[name], self._shapes[name], dtype) for name, dtype in dtypes.items()}

        def work():
            engine._cuda.view(scratch[0], (scratch[1],), "uint8")[:] = 0xCC
            feeds = {value.name: views[value.name] for value in engine._session.get_inputs()}
            for value, found in zip(engine._session.get_outputs(), engine._session.run(None, feeds), strict=True):
                views[value.name][...] = found

        def spans(values):
            return [(addresses[value.name], addresses[value.name] + views[value.name].nbytes) for value in values]

        engine._cuda.submit(
            stream_handle,
            work,
            spans(engine._session.get_inputs()),
            [*spans(engine._session.get_outputs()), (scratch[0], sum(scratch))],
        )
        return True


class CapturableContext(IExecutionContext):
    """TensorRT-RTX's."""

    def is_stream_capturable(self, stream):
        return self._engine._capturable


class IRuntimeCache:
    def __init__(self) -> None:
        self._kernels = b""

    def serialize(self):
        return self._kernels

    def deserialize(self, blob):
        if not blob.startswith(b"kernels"):
            return False
        self._kernels = bytes(blob)
        return True


class IRuntimeConfig:
    cuda_graph_strategy = CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.LAZY

    def create_runtime_cache(self):
        return IRuntimeCache()

    def set_runtime_cache(self, cache):
        self._cache = cache
        return True

    def set_execution_context_allocation_strategy(self, strategy):
        self._strategy = strategy


class ICudaEngine:
    def __init__(self, session: onnxruntime.InferenceSession, trt: FakeTensorRT, log: ILogger) -> None:
        self._session, self._trt, self._cuda, self._log = session, trt, trt._cuda, log
        self._fails, self._capturable = trt._fails, trt._capturable

    @property
    def num_io_tensors(self):
        return len(self._session.get_inputs()) + len(self._session.get_outputs())

    def get_tensor_name(self, index):
        return [*self._session.get_inputs(), *self._session.get_outputs()][index].name

    def get_tensor_dtype(self, name):
        values = (*self._session.get_inputs(), *self._session.get_outputs())
        return next(NUMPY[value.type] for value in values if value.name == name)

    def get_tensor_profile_shape(self, name, profile_index):
        dims = next(value.shape for value in self._session.get_inputs() if value.name == name)
        return [[dim if isinstance(dim, int) else size for dim in dims] for size in (1, 1, LARGEST)]

    def create_runtime_config(self):
        return IRuntimeConfig()

    def create_execution_context(self, strategy):
        if isinstance(strategy, IRuntimeConfig):
            assert strategy.cuda_graph_strategy is CudaGraphStrategy.DISABLED
            assert strategy.dynamic_shapes_kernel_specialization_strategy is DynamicShapesKernelSpecializationStrategy.EAGER
            strategy._cache._kernels = (strategy._cache._kernels or b"kernels") + b"."
            assert strategy._strategy is ExecutionContextAllocationStrategy.USER_MANAGED
            return CapturableContext(self)
        assert strategy is ExecutionContextAllocationStrategy.USER_MANAGED
        return IExecutionContext(self)


class Runtime:
    def __init__(self, logger, trt: FakeTensorRT) -> None:
        self._logger, self._trt = logger, trt

    def deserialize_cuda_engine(self, serialized_engine):
        try:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 4
            session = onnxruntime.InferenceSession(bytes(serialized_engine), options)
        except Exception as error:
            self._logger.log(ILogger.ERROR, f"not a plan: {type(error).__name__}")
            return None
        return ICudaEngine(session, self._trt, self._logger)


class ValidatingRuntime(Runtime):
    """TensorRT-RTX's."""

    def get_engine_validity(self, buffer):
        validity = EngineValidity.VALID if self._trt._suits else EngineValidity.INVALID
        return validity, 0 if self._trt._suits else int(EngineInvalidityDiagnostics.UNSUPPORTED_CC)


class FakeTensorRT:
    """The module; `rtx` tells which of the two. `fails`, `capturable` and `suits` set how its engines behave."""

    ILogger, ExecutionContextAllocationStrategy = ILogger, ExecutionContextAllocationStrategy

    def __init__(
        self,
        cuda: FakeRuntime,
        rtx: bool = False,
        fails: bool = False,
        capturable: bool = True,
        suits: bool = True,
        version: str = "0.0.fake",
    ) -> None:
        self.__version__ = version
        self._cuda, self._fails, self._capturable, self._suits, self._rtx = cuda, fails, capturable, suits, rtx
        if rtx:
            self.IRuntimeCache, self.EngineValidity, self.CudaGraphStrategy = IRuntimeCache, EngineValidity, CudaGraphStrategy
            self.EngineInvalidityDiagnostics, self.ComputeCapability = EngineInvalidityDiagnostics, ComputeCapability
            self.DynamicShapesKernelSpecializationStrategy = DynamicShapesKernelSpecializationStrategy

    def Runtime(self, logger):
        return (ValidatingRuntime if self._rtx else Runtime)(logger, self)

    def nptype(self, dtype):
        return dtype
