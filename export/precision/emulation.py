"""Emulates a half-precision network on a CPU without such arithmetic: computed in float32, every half result rounded.

ONNX Runtime alone cannot do this on a CPU. It has no bfloat16 arithmetic, and it runs float16 as float32 between casts
most of which it then removes, so that neither rounding nor overflow shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper

from export.precision.half_precision import ELEMENTS, tensors_of

MAKES_HALF = frozenset({"Cast", "Constant", "ConstantOfShape"})  # half results without half inputs


@contextmanager
def emulated(path: Path, precision: str) -> Iterator[Path]:
    """The path of a network that a CPU can run: of a half-precision file its emulation (see `emulate`), for the block only.

    A float32 file is given as it is.
    """
    if precision == "float32":
        yield path
        return
    emulation = emulate(path, precision)
    try:
        yield emulation
    finally:
        emulation.unlink()


def emulate(path: Path, precision: str) -> Path:
    """Write the emulation of a half-precision network beside it, with the same file of weights; its path.

    It computes in float32 and rounds every half result. A product is accumulated in float32 and rounded once, as on a tensor core.
    """
    model = onnx.load(path, load_external_data=False)
    _round_half_results(model, ELEMENTS[precision])
    emulation = path.with_name("emulated.onnx")
    onnx.save(model, emulation)
    return emulation


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
