"""Attention that is exported as ONNX Runtime's operator computes what torch's does."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from export.attention import OPERATOR, fused_attention
from export.exported_networks import EXPORTED_NETWORKS

FUSED_ATTENTION = {row.name for row in EXPORTED_NETWORKS if row.fused_attention}
attention = torch.nn.functional.scaled_dot_product_attention
HEADS, WIDTH = 3, 24


class Layer(nn.Module):
    """Query from [B, S, WIDTH], key and value from [B, T, WIDTH], as a UNet's layer calls torch's attention."""

    def __init__(self, **options):
        super().__init__()
        self.options = options

    def forward(self, x, context):
        query, key, value = (tensor.unflatten(2, (HEADS, -1)).transpose(1, 2) for tensor in (x, context, context.flip(1)))
        found = torch.nn.functional.scaled_dot_product_attention(query, key, value, **self.options)
        return found.transpose(1, 2).flatten(2)


def export(module, path):
    axes = {0: "B", 1: "S"}
    with fused_attention():
        torch.onnx.export(
            module,
            (torch.randn(2, 5, WIDTH), torch.randn(2, 5, WIDTH)),
            str(path),
            dynamo=False,
            opset_version=18,
            input_names=["x", "context"],
            output_names=["y"],
            dynamic_axes={"x": axes, "context": {0: "B", 1: "T"}},
        )
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.mark.parametrize("batch, queries, keys", [(1, 1, 1), (2, 5, 5), (3, 64, 7), (1, 300, 300)])
def test_the_operator_gives_torchs_attention(tmp_path, batch, queries, keys):
    assert export(Layer(), tmp_path / "layer.onnx").count(OPERATOR) == 1
    x, context = torch.randn(batch, queries, WIDTH), torch.randn(batch, keys, WIDTH)
    session = onnxruntime.InferenceSession(tmp_path / "layer.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": x.numpy(), "context": context.numpy()})
    assert np.abs(found - Layer()(x, context).numpy()).max() < 2e-6


@pytest.mark.parametrize("options", [{"is_causal": True}, {"attn_mask": torch.zeros(5, 5)}, {"scale": 0.5}], ids=str)
def test_what_the_operator_is_not_given_stays_torchs(tmp_path, options):
    assert OPERATOR not in export(Layer(**options), tmp_path / "layer.onnx")
    x = torch.randn(2, 5, WIDTH)
    session = onnxruntime.InferenceSession(tmp_path / "layer.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": x.numpy(), "context": x.numpy()})
    assert np.abs(found - Layer(**options)(x, x).numpy()).max() < 2e-6


def test_torchs_attention_comes_back():
    with pytest.raises(KeyError), fused_attention():
        assert torch.nn.functional.scaled_dot_product_attention is not attention
        raise KeyError
    assert torch.nn.functional.scaled_dot_product_attention is attention


@pytest.mark.parametrize("network", ["text_encoder", "unet"])  # the demo's decoder has no attention
def test_which_networks_of_the_demo_have_it(demo_engines, network):
    operators = [node.op_type for node in onnx.load(demo_engines / network / "model.onnx").graph.node]
    assert (OPERATOR in operators) == (network in FUSED_ATTENTION)
    assert ("Softmax" in operators) == (network not in FUSED_ATTENTION)
