"""Counts what a network must do, from its ONNX file: floating-point operations of its products, and bytes.

Knows nothing of time: `benchmarks.suite.floor` sets these counts against what the machine can do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import external_data_helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

SMALL = 4096  # elements of a tensor that may say how large another one is
# Control flow and chance; and int8 weights, which are no shapes and which the reference evaluator does not know of our opset.
NOT_FOLDED = frozenset({"If", "Loop", "Scan", "RandomNormal", "RandomUniform", "QuantizeLinear", "DequantizeLinear"})


@dataclass(frozen=True)
class Count:
    """One call of a network.

    flops               2 for each multiply-add of Conv, MatMul, Gemm and attention
    weight_bytes        initializers, each once
    boundary_bytes      the network's own inputs and outputs
    activation_bytes    inputs and outputs of these that are not weights, as if nothing else were fused
    uncounted           other operators outside the ONNX standard, and products whose shapes depend on them: not in `flops`
    """

    flops: int
    weight_bytes: int
    boundary_bytes: int
    activation_bytes: int
    uncounted: tuple[str, ...]

    @property
    def least_bytes(self) -> int:
        """What has to pass through memory even when every activation stays in a cache."""
        return self.weight_bytes + self.boundary_bytes


def count(path: Path, sizes: Mapping[str, int]) -> Count:
    """Count one call of the network in an ONNX file; `sizes` has a number for each symbolic dimension.

    Raises:
        ValueError: the shape of a product cannot be inferred, though every operator is standard.
        KeyError: `sizes` lacks a dimension.
    """
    model = onnx.load(path, load_external_data=False)
    types = infer_types(model, sizes)
    weights = {tensor.name for tensor in model.graph.initializer}
    uncounted = {f"{node.domain}.{node.op_type}" for node in model.graph.node if not (_is_standard(node) or _is_attention(node))}
    flops = activation_bytes = 0
    for node in filter(_is_product, model.graph.node):
        try:
            flops += _product_flops(node, types)
        except ValueError:
            if not uncounted:
                raise
            uncounted.add(node.op_type)
            continue
        activation_bytes += sum(_bytes(types[name]) for name in (*node.input, *node.output) if name and name not in weights)
    boundary = sum(
        _bytes(types.get(value.name) or _concrete(value.type, sizes)) for value in (*model.graph.input, *model.graph.output)
    )
    weight_bytes = sum(_bytes(types[name]) for name in weights)
    return Count(flops, weight_bytes, boundary, activation_bytes, tuple(sorted(uncounted)))


def infer_types(model: onnx.ModelProto, sizes: Mapping[str, int]) -> dict[str, onnx.TypeProto]:
    """The type and concrete shape of every tensor whose shape follows from `sizes`.

    One walk, node by node. Shapes computed inside the graph (Shape, Gather, Concat, …) are evaluated on the way, which
    the inference of whole models does for some operators only.
    """
    types = {value.name: _concrete(value.type, sizes) for value in model.graph.input}
    values: dict[str, np.ndarray] = {}
    for tensor in model.graph.initializer:
        types[tensor.name] = onnx.helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
        if math.prod(tensor.dims) <= SMALL and not external_data_helper.uses_external_data(tensor):
            values[tensor.name] = numpy_helper.to_array(tensor)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    for node in model.graph.node:
        if not all(name in types for name in node.input if name):
            continue
        if _is_attention(node):
            types[node.output[0]] = types[node.input[0]]
        elif _is_standard(node):
            _infer_node(node, opset, types, values)
    return types


def _infer_node(node: onnx.NodeProto, opset: int, types: dict[str, onnx.TypeProto], values: dict[str, np.ndarray]) -> None:
    """Add the types of a node's outputs, and their values where they follow from known ones and are small."""
    inputs = [name for name in node.input if name]
    shape = _shape(types.get(node.input[0])) if node.op_type == "Shape" else None
    if shape is not None and not node.attribute:
        values[node.output[0]] = np.array(shape, np.int64)
    elif all(name in values for name in inputs) and node.op_type not in NOT_FOLDED:
        values.update({name: array for name, array in _evaluate(node, opset, values).items() if array.size <= SMALL})
    if all(name in values for name in node.output):
        for name in node.output:
            types[name] = onnx.helper.make_tensor_type_proto(
                onnx.helper.np_dtype_to_tensor_dtype(values[name].dtype), values[name].shape
            )
        return
    known = {name: types[name] for name in inputs}
    data = {name: numpy_helper.from_array(values[name], name) for name in inputs if name in values}
    types.update(
        shape_inference.infer_node_outputs(
            onnx.defs.get_schema(node.op_type, opset), node, known, data, opset_imports=[onnx.helper.make_opsetid("", opset)]
        )
    )


def _evaluate(node: onnx.NodeProto, opset: int, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a node gives for known inputs."""
    feeds = {name: values[name] for name in node.input if name}
    inputs = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), None)
        for name, value in feeds.items()
    ]
    graph = onnx.helper.make_graph([node], "node", inputs, [onnx.ValueInfoProto(name=name) for name in node.output])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    return {name: np.asarray(array) for name, array in zip(node.output, ReferenceEvaluator(model).run(None, feeds), strict=True)}


def _is_standard(node: onnx.NodeProto) -> bool:
    return node.domain in ("", "ai.onnx")


def _is_attention(node: onnx.NodeProto) -> bool:
    """ONNX Runtime's operator, of query [B, S, C], key and value [B, T, C]."""
    return node.domain == "com.microsoft" and node.op_type == "MultiHeadAttention" and len(node.input) == 3


def _is_product(node: onnx.NodeProto) -> bool:
    return _is_attention(node) or _is_standard(node) and node.op_type in ("Conv", "MatMul", "Gemm")


def _product_flops(node: onnx.NodeProto, types: Mapping[str, onnx.TypeProto]) -> int:
    """2 for each multiply-add of a product.

    Raises:
        ValueError: a shape is unknown.
    """
    first, second, result = (_shape(types.get(name)) for name in (node.input[0], node.input[1], node.output[0]))
    if first is None or second is None or result is None:
        raise ValueError(
            f"{node.op_type} {node.name}: expected shapes that follow from the sizes given, found {first}, {second} and {result}"
        )
    if node.op_type == "Conv":  # weight [out, in / groups, kernel …]
        return 2 * math.prod(result) * math.prod(second[1:])
    if _is_attention(node):  # scores, and their product with the values
        return 2 * 2 * math.prod(result) * second[1]
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return 2 * math.prod(result) * first[0 if transposed else -1]


def _concrete(declared: onnx.TypeProto, sizes: Mapping[str, int]) -> onnx.TypeProto:
    tensor = declared.tensor_type
    return onnx.helper.make_tensor_type_proto(
        tensor.elem_type, [sizes[dim.dim_param] if dim.HasField("dim_param") else dim.dim_value for dim in tensor.shape.dim]
    )


def _shape(value: onnx.TypeProto | None) -> tuple[int, ...] | None:
    """The shape of a type, None unless every dimension is a number."""
    if value is None or not value.tensor_type.HasField("shape"):
        return None
    dims = value.tensor_type.shape.dim
    return tuple(dim.dim_value for dim in dims) if all(dim.HasField("dim_value") for dim in dims) else None


def _bytes(value: onnx.TypeProto) -> int:
    shape = _shape(value)
    if shape is None:
        raise ValueError(f"expected a tensor whose shape follows from the sizes given, found {value.tensor_type}")
    return math.prod(shape) * onnx.helper.tensor_dtype_to_np_dtype(value.tensor_type.elem_type).itemsize
