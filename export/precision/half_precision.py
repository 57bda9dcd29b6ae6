"""Rewrites a float32 ONNX graph in half precision.

TensorRT 11 and TensorRT-RTX build strongly typed networks only: every tensor has the dtype that the file gives it. What
multiplies by weights or makes attention's products becomes half; layout and pointwise operators follow their inputs; everything
else, normalisations, softmax, reductions, sines and exponentials above all, stays float32.

TensorRT-RTX 1.7 keeps the casts around a softmax inside its fused attention kernel. With a float32 product in front of the
softmax it makes that kernel for none of the 20 attentions of the demo's UNet, so attention whose logits exceed float16 takes
bfloat16 instead (`export.precision.names`).

`benchmarks/studies/precision_error.py` compares this pass with onnxruntime's float16 tool and with exporting the modules in
half. NVIDIA ModelOpt's AutoCast also chooses by calibration data; it needs other versions of onnx and onnxruntime than the
export.
"""

from __future__ import annotations

import torch
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper, shape_inference

from export.precision.names import OPSETS

ELEMENTS = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}

HALF_OPS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# Around a product in int8: their float tensors and scales have the precision of what is around it.
QUANTIZED_OPS = frozenset({"QuantizeLinear", "DequantizeLinear"})
# Less than a thousandth of the work; with these in float32 the error of the UNet's prediction falls by a third.
FLOAT32_MODULES = ("/conv_in/", "/conv_out/")
FOLLOWING_OPS = frozenset(
    {
        "Add",
        "Concat",
        "Div",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "Mul",
        "Relu",
        "Reshape",
        "Resize",
        "Sigmoid",
        "Slice",
        "Split",
        "Squeeze",
        "Sub",
        "Transpose",
        "Unsqueeze",
        "Where",
    }
)
ANY_DTYPE_OPS = frozenset({"Cast", "Shape", "Size"})


def convert(model: ModelProto, precision: str, lowered: bool = False) -> None:
    """Rewrite a float32 model with its weights in memory, in place; its inputs and outputs keep their dtypes.

    `lowered`: the backend computes in half precision what it can, whatever the file says. Then the file is half where weights are
    read, and nowhere else: so attention keeps the form that the backend fuses.

    Casts go where precisions differ. A pointwise operator computes in half when all of its varying inputs are half; inputs that
    follow from constants and sizes alone do not count.
    """
    floats = tensors_of(model, TensorProto.FLOAT)
    computes, half = _choose(model.graph, floats, lowered)
    half |= _convert_weights(model.graph, floats, computes, precision)
    _insert_casts(model.graph, floats, computes, half, precision)
    next(opset for opset in model.opset_import if not opset.domain).version = OPSETS[precision]


def _choose(graph: GraphProto, floats: set[str], lowered: bool) -> tuple[list[bool], set[str]]:
    """Whether each node computes in half, and the tensors that are half therefore; outputs of the graph are not."""
    outputs, fixed = {value.name for value in graph.output}, _fixed_values(graph)
    computes: list[bool] = []
    half: set[str] = set()
    for node in graph.node:
        varying = _operands(node, floats) - fixed
        follows = not lowered and node.op_type in FOLLOWING_OPS and bool(varying) and varying <= half
        computes.append(follows or _wants_half(node, lowered, fixed))
        if computes[-1]:
            half |= floats & set(node.output) - outputs
    return computes, half


def _wants_half(node: NodeProto, lowered: bool, fixed: set[str]) -> bool:
    """Whether a node computes in half whatever its inputs are."""
    if lowered:
        return node.op_type in HALF_OPS | {"Gather"} and any(name in fixed for name in node.input[:2])
    return node.op_type in HALF_OPS | QUANTIZED_OPS and not any(module in node.name for module in FLOAT32_MODULES)


def _convert_weights(graph: GraphProto, floats: set[str], computes: list[bool], precision: str) -> set[str]:
    """Round to nearest what only half nodes read; the names of these weights."""
    readers: dict[str, set[bool]] = {}
    for node, half in zip(graph.node, computes, strict=True):
        operands = _operands(node, floats)
        for name in node.input:
            readers.setdefault(name, set()).add(half and name in operands)
    converted = set()
    for weight in graph.initializer:
        if weight.name in floats and readers.get(weight.name) == {True}:
            round_weight(weight, precision)
            converted.add(weight.name)
    return converted


def round_weight(weight: TensorProto, precision: str) -> None:
    """Round a float32 tensor to nearest, in place."""
    values = torch.from_numpy(numpy_helper.to_array(weight).copy())
    weight.ClearField("float_data")
    weight.raw_data = values.to(getattr(torch, precision)).view(torch.int16).numpy().tobytes()
    weight.data_type = ELEMENTS[precision]


def _insert_casts(graph: GraphProto, floats: set[str], computes: list[bool], half: set[str], precision: str) -> None:
    """Give every node its inputs in its own precision, and the graph its outputs in float32."""
    outputs = {value.name for value in graph.output}
    nodes: list[NodeProto] = []
    casts: dict[str, str] = {}
    for original, in_half in zip(graph.node, computes, strict=True):
        node = NodeProto()
        node.CopyFrom(original)
        operands = set() if node.op_type in ANY_DTYPE_OPS else _operands(node, floats)
        for index, name in enumerate(node.input):
            if name in operands and (name in half) != in_half:
                if name not in casts:
                    casts[name] = f"{name}_{precision if in_half else 'float32'}"
                    nodes.append(_cast(name, casts[name], ELEMENTS[precision] if in_half else TensorProto.FLOAT))
                node.input[index] = casts[name]
        nodes.append(node)
        for index, name in enumerate(node.output):
            if in_half and name in outputs & floats:
                node.output[index] = f"{name}_{precision}"
                nodes.append(_cast(node.output[index], name, TensorProto.FLOAT))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)


def _operands(node: NodeProto, floats: set[str]) -> set[str]:
    """Inputs that a node computes with. Resize's others are sizes and scales, float32 in every precision."""
    return floats & set(node.input[:1] if node.op_type == "Resize" else node.input)


def _cast(name: str, result: str, element: int) -> NodeProto:
    return helper.make_node("Cast", [name], [result], name=result, to=element)


def tensors_of(model: ModelProto, element: int) -> set[str]:
    """Names of the tensors of one ONNX element type, inferred without the weights: a model may exceed protobuf's 2 GiB."""
    light = ModelProto()
    light.ir_version = model.ir_version
    light.opset_import.extend(model.opset_import)
    light.graph.node.extend(model.graph.node)
    light.graph.input.extend(model.graph.input)
    light.graph.output.extend(model.graph.output)
    light.graph.input.extend(
        helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims) for weight in model.graph.initializer
    )
    graph = shape_inference.infer_shapes(light).graph
    values: list[ValueInfoProto] = [*graph.value_info, *graph.input, *graph.output]
    return {value.name for value in values if value.type.tensor_type.elem_type == element}


def _fixed_values(graph: GraphProto) -> set[str]:
    """Names of the values that follow from constants and sizes alone."""
    fixed = {weight.name for weight in graph.initializer}
    for node in graph.node:
        if node.op_type in ("Shape", "Size") or all(name in fixed for name in node.input if name):
            fixed.update(node.output)
    return fixed
