"""A half-precision network on a CPU that has no such arithmetic: computed in float32, every half result rounded.

ONNX Runtime itself cannot take its place on a CPU. It has no bfloat16 arithmetic, and it runs float16 as float32 between casts
most of which it then removes, so that neither rounding nor overflow shows.
"""
from __future__ import annotations

from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper

from export.half_precision import ELEMENTS, FOLLOWING_OPS, HALF_OPS


def emulate(path: Path) -> Path:
    """Write the float32 twin of a half-precision network beside it, on the same file of weights; the twin's path.

    A product accumulates in float32 and is rounded once, as on a tensor core.
    """
    model = onnx.load(path, load_external_data=False)
    _round_half_results(model)
    twin = path.with_name("emulated.onnx")
    onnx.save(model, twin)
    return twin


def _round_half_results(model: ModelProto) -> None:
    half = {weight.name for weight in model.graph.initializer if weight.data_type in ELEMENTS.values()}
    wide = {name: f"{name}_wide" for name in half}
    nodes = [_cast(name, result, TensorProto.FLOAT) for name, result in wide.items()]
    element = next(found for node in model.graph.node if (found := _half_cast(node)))
    for original in model.graph.node:
        node = NodeProto()
        node.CopyFrom(original)
        rounds = _half_cast(node) or (node.op_type in HALF_OPS | FOLLOWING_OPS and not half.isdisjoint(node.input))
        if _half_cast(node):
            node.attribute[0].i = TensorProto.FLOAT
        node.input[:] = [wide.get(name, name) for name in node.input]
        nodes.append(node)
        if rounds:
            half.update(node.output)
            for index, name in enumerate(node.output):
                node.output[index] = f"{name}_exact"
                nodes += [_cast(f"{name}_exact", f"{name}_rounded", element), _cast(f"{name}_rounded", name, TensorProto.FLOAT)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _cast(name: str, result: str, element: int) -> NodeProto:
    return helper.make_node("Cast", [name], [result], to=element)


def _half_cast(node: NodeProto) -> int:
    """The half element type that a Cast node makes, else 0."""
    return node.attribute[0].i if node.op_type == "Cast" and node.attribute[0].i in ELEMENTS.values() else 0
