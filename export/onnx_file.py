"""Writes a network as ONNX with the tensor names, dtypes and dynamic axes of its spec.

Why tracing (`torch.onnx.export(dynamo=False)`): on the demo's UNet it took 1 s where the torch.export path took 16, both
graphs run at the same speed under ONNX Runtime (medians within 2 %), and the torch.export path refuses batches from 64
on. optimum's exporter traces, too, and gives the same graph under names of its own. `benchmarks/studies/exporters.py` measures it.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

import onnx
import torch
from onnx import external_data_helper
from torch import Tensor, nn

from engines.networks import OPSET, NetworkSpec, TensorSpec, with_derived
from export.precision.half_precision import convert

# Larger weights go to `<name>.data`, which backends map: in the file they would be in memory a second time. A guard's file is read
# whole, so that what runs is what was verified; a protobuf message ends at 2 GiB.
EMBEDDED_BYTES, GUARD_BYTES = 1 << 26, 1 << 30
# Tracing fixes no size, but with unequal sizes a mistaken axis is noticed. With odd ones the UNet's upsampling takes the size of
# what it is added to, as diffusers does where sizes cannot be halved evenly; with others the graph would double every size.
EXAMPLE_SIZES = {"B": 2, "C": 2, "H": 17, "W": 25, "S": 3, "f": 8}


def example(spec: NetworkSpec, sizes: Mapping[str, int], seed: int = 0) -> dict[str, Tensor]:
    """Random inputs of a network under `sizes` (a number for each symbol), in the ranges that a model sees."""
    draw = torch.Generator().manual_seed(seed)
    return {tensor.name: _random(tensor, sizes, draw) for tensor in spec.inputs}


def _random(tensor: TensorSpec, sizes: Mapping[str, int], draw: torch.Generator) -> Tensor:
    shape = tensor.shape(sizes)
    if tensor.dtype == "bool":  # False alone, and both in turn
        return torch.arange(math.prod(shape)).reshape(shape) % 2 == 1
    if tensor.span is None:
        return torch.randn(shape, generator=draw)
    low, high = tensor.span
    if tensor.dtype == "float32":
        return low + (high - low) * torch.rand(shape, generator=draw)
    return torch.randint(int(low), int(high) + 1, shape, generator=draw, dtype=getattr(torch, tensor.dtype))


def export_network(
    module: nn.Module,
    spec: NetworkSpec,
    fixed: Mapping[str, int],
    path: Path,
    precision: str = "float32",
    lowered: bool = False,
) -> None:
    """Write `module` to `path`, its weights to `<path>.data` where they exceed 64 MiB, a guard's 1 GiB.

    Symbols of the spec become dynamic axes, but for those of the model, D and K, which `fixed` gives. Inside, the network computes
    in `precision`; its tensors keep the dtypes of the spec. See `export.precision.half_precision.convert` for `lowered`.
    """
    inputs = example(spec, with_derived({**EXAMPLE_SIZES, **fixed}))
    axes = {tensor.name: tensor.dynamic_axes for tensor in spec.tensors}
    folder = Path(tempfile.mkdtemp(prefix=f".{spec.name}-", dir=path.parent))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracing warns of every Python branch; the parity gate compares the outputs
            torch.onnx.export(
                module.eval().requires_grad_(False),
                tuple(inputs.values()),
                str(folder / path.name),
                dynamo=False,
                opset_version=OPSET,
                dynamic_axes=axes,
                input_names=[tensor.name for tensor in spec.inputs],
                output_names=[tensor.name for tensor in spec.outputs],
            )
        model = onnx.load(folder / path.name)
        _declare_outputs(model, spec, fixed)
        if precision != "float32":
            convert(model, precision, lowered)
        save_model(model, path, GUARD_BYTES if spec.of_guard else EMBEDDED_BYTES)
    finally:
        shutil.rmtree(folder)


def _declare_outputs(model: onnx.ModelProto, spec: NetworkSpec, fixed: Mapping[str, int]) -> None:
    """Give the outputs the dimensions of the spec: the exporter invents names for those that it could not infer."""
    for value, tensor in zip(model.graph.output, spec.outputs, strict=True):
        dims = [fixed.get(dim, dim) if isinstance(dim, str) else dim for dim in tensor.dims]
        element = value.type.tensor_type.elem_type
        value.CopyFrom(onnx.helper.make_tensor_value_info(tensor.name, element, dims))


def save_model(model: onnx.ModelProto, path: Path, embedded: int) -> None:
    """Write a model, its weights to `<path>.data` where they exceed `embedded` bytes."""
    external = sum(len(tensor.raw_data) for tensor in model.graph.initializer) > embedded
    if external:
        external_data_helper.convert_model_to_external_data(model, location=path.name + ".data")
    onnx.save(model, path)
    if external:  # onnx makes it readable for its owner alone; a server may run as another user
        path.with_name(path.name + ".data").chmod(path.stat().st_mode)
