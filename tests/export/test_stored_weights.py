"""Weights that a float32 file keeps in half precision are the rounded ones, and the arithmetic stays float32."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from export.onnx_file import save_model
from export.precision.stored_weights import store_weights


class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(10, 8)
        self.conv = torch.nn.Conv1d(8, 8, 3, padding=1)
        self.norm = torch.nn.LayerNorm(8)

    def forward(self, ids):
        return self.norm(self.conv(self.table(ids).transpose(1, 2)).transpose(1, 2))


@pytest.mark.parametrize("precision", ("bfloat16", "float16"))
def test_stored_weights_are_rounded_and_computed_with_in_float32(tmp_path, precision):
    torch.manual_seed(0)
    module, ids, path = Small().eval(), torch.arange(10).reshape(1, 10), tmp_path / "small.onnx"
    torch.onnx.export(module, (ids,), str(path), dynamo=False, input_names=["ids"], output_names=["out"])
    model = onnx.load(path)
    before = {weight.name: (weight.data_type, len(weight.dims)) for weight in model.graph.initializer}
    store_weights(model, precision)
    save_model(model, path)
    after = {weight.name: weight.data_type for weight in onnx.load(path).graph.initializer}
    half = getattr(onnx.TensorProto, precision.upper())
    assert {name for name, kind in after.items() if kind == half} == {
        f"{name}_{precision}" for name, (kind, dims) in before.items() if kind == onnx.TensorProto.FLOAT and dims > 1
    }
    rounded = copy.deepcopy(module)
    for parameter in rounded.parameters():
        if parameter.dim() > 1:
            parameter.data = parameter.data.to(getattr(torch, precision)).float()
    found = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"ids": ids.numpy()})[0]
    np.testing.assert_allclose(found, rounded(ids).detach().numpy(), rtol=0, atol=2e-6)
