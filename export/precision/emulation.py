"""A half-precision network on a CPU that has no such arithmetic: computed in float32, every half result rounded.

ONNX Runtime itself cannot take its place on a CPU. It has no bfloat16 arithmetic, and it runs float16 as float32 between casts
most of which it then removes, so that neither rounding nor overflow shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper

from export.precision.half_precision import ELEMENTS, tensors_of

MAKES_HALF = frozenset({"Cast", "Constant", "ConstantOfShape"})  # from no half input


@contextmanager
def emulated(path: Path, precision: str) -> Iterator[Path]:
    """A network that a CPU can run: the float32 twin of a half-precision one, beside it and on the same file of weights.

    A float32 network is its own. A product accumulates in float32 and is rounded once, as on a tensor core.
    """
    if precision == "float32":
        yield path
        return
    twin = emulate(path, precision)
    try:
        yield twin
    finally:
        twin.unlink()


def emulate(path: Path, precision: str) -> Path:
    """Write the float32 twin of a half-precision network; its path."""
    model = onnx.load(path, load_external_data=False)
    _round_half_results(model, ELEMENTS[precision])
    twin = path.with_name("emulated.onnx")
    onnx.save(model, twin)
    return twin


def _round_half_results(model: ModelProto, element: int) -> None:
    half = tensors_of(model, element)
    weights = [weight.name for weight in model.graph.initializer if weight.name in half]
    wide = {name: f"{name}_wide" for name in weights}
    nodes = [_cast(name, result, TensorProto.FLOAT) for name, result in wide.items()]
    for original in model.graph.node:
        node = NodeProto()
        node.CopyFrom(original)
        node.input[:] = [wide.get(name, name) for name in node.input]
        nodes.append(node)
        for index, name in enumerate(node.output):
            if name in half:
                node.output[index] = f"{name}_rounded" if node.op_type in MAKES_HALF else f"{name}_exact"
                if node.op_type not in MAKES_HALF:
                    nodes.append(_cast(f"{name}_exact", f"{name}_rounded", element))
                nodes.append(_cast(f"{name}_rounded", name, TensorProto.FLOAT))
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)


def _cast(name: str, result: str, element: int) -> NodeProto:
    return helper.make_node("Cast", [name], [result], to=element)
