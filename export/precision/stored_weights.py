"""Keeps a float32 network's weights in half precision in its file: what runs it in half rounds them in any case."""

from __future__ import annotations

from onnx import ModelProto, TensorProto, helper

from export.precision.half_precision import round_weight

LEAST_DIMENSIONS = 2  # of weights that are multiplied by; biases and the scales of norms stay float32


def store_weights(model: ModelProto, precision: str) -> None:
    """Rewrite a float32 model with its weights in memory, in place: of each stored weight a cast makes float32."""
    casts = []
    for weight in model.graph.initializer:
        if weight.data_type == TensorProto.FLOAT and len(weight.dims) >= LEAST_DIMENSIONS:
            name, weight.name = weight.name, f"{weight.name}_{precision}"
            round_weight(weight, precision)
            casts.append(helper.make_node("Cast", [weight.name], [name], name=f"{weight.name}_cast", to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
