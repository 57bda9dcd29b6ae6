"""PyTorch modules as engines on CUDA streams, so that the runtime's own loop and capture can be measured without TensorRT.

For benchmarks only: a deployment has no PyTorch. Needs PyTorch's CUDA build and cuda-python.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engines.backends.contract import Contents, check_names
from engines.backends.program import Program, Step
from engines.cuda.device import Cuda, DeviceArray, Memory
from engines.cuda.graph import CudaProgram, Lanes
from engines.networks import NetworkSpec


class _View:
    """A device array for PyTorch (CUDA array interface, version 3)."""

    def __init__(self, array: DeviceArray) -> None:
        self.array = array
        self.__cuda_array_interface__ = {
            "data": (array.address, False),
            "shape": array.shape,
            "typestr": array.dtype.str,
            "version": 3,
            "strides": None,
        }


def view(array: DeviceArray) -> torch.Tensor:
    """A packed device array as a tensor that shares its memory."""
    return torch.as_tensor(_View(array), device="cuda")


class TorchCall:
    """A module bound to arrays. PyTorch's allocator has its own scratch memory, so ours is left alone."""

    scratch_size = 0

    def __init__(self, engine: TorchEngine, tensors: dict[str, DeviceArray]) -> None:
        self._engine = engine
        self._inputs = [view(tensors[tensor.name]) for tensor in engine.spec.inputs]
        self._outputs = [view(tensors[tensor.name]) for tensor in engine.spec.outputs]

    def __call__(self) -> None:
        self._engine.lanes.run(self)

    def enqueue(self, stream: Any, scratch: Memory) -> None:
        """See `engines.cuda.graph.CudaCall`."""
        with torch.cuda.stream(torch.cuda.ExternalStream(int(stream))), torch.cuda.use_mem_pool(self._engine.pool), torch.no_grad():
            results = self._engine.module(*self._inputs)
            for output, values in zip(self._outputs, (results,) if isinstance(results, torch.Tensor) else results, strict=True):
                output.copy_(values)

    def capturable(self, stream: Any) -> bool:
        return True


class TorchEngine:
    """A module whose inputs and outputs are those of a spec; it casts to its own precision inside."""

    def __init__(self, module: torch.nn.Module, spec: NetworkSpec, backend: TorchCudaBackend) -> None:
        self.module, self.spec, self.lanes, self.pool = module, spec, backend.lanes, backend.pool

    def bind(self, **tensors: DeviceArray) -> TorchCall:
        """See `engines.backends.contract.Engine.bind`."""
        check_names(self.spec, list(tensors))
        return TorchCall(self, tensors)


class TorchCudaBackend:
    """Memory, streams and programs as for TensorRT. What PyTorch allocates while it is captured stays in a pool of its own."""

    name = "torch-cuda"
    on_host = False

    def __init__(self, cuda: Cuda, program: Any = CudaProgram) -> None:
        """`program` makes a program from lanes and steps."""
        self.cuda, self.lanes, self.pool, self._program = cuda, Lanes(cuda), torch.cuda.MemPool(), program
        self.device = f"PyTorch {torch.__version__}, {cuda.info()}"

    def load(self, path: Path, spec: NetworkSpec, contents: Contents | None = None) -> TorchEngine:
        raise NotImplementedError("engines are made from modules")

    def used_memory(self) -> int:
        return self.cuda.used_memory()

    def zeros(self, shape: tuple[int, ...], dtype: str, rows: bool = False) -> DeviceArray:
        return self.cuda.zeros(shape, dtype, rows)

    def write(self, array: DeviceArray, values: Any) -> None:
        self.cuda.write(array, values, self.lanes.main)

    def read(self, array: DeviceArray) -> np.ndarray:
        return self.cuda.read(array, self.lanes.main)

    def program(self, steps: Sequence[Step]) -> Program:
        return self._program(self.lanes, steps)
