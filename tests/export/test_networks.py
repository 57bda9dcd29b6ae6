"""Exported networks against references: the sampler step against its numpy row, sizes, large weights in a file of their own."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from engines.backends.contract import run_once
from engines.backends.registry import open_backend
from engines.networks import NETWORKS, OPSET, with_derived
from export import onnx_file
from export.onnx_file import example, export_network
from export.wrappers import SamplerStep
from runtime.samplers.recurrence import apply_row
from runtime.samplers.registry import SAMPLERS, recurrence
from runtime.samplers.schedules import SchedulerConfig
from saferedir.guard import Concept, Guard
from tests.random_heads import SMALL, random_heads

SCHEDULE = SchedulerConfig.read(
    {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
    }
)


@pytest.fixture(scope="module")
def step(tmp_path_factory):
    path = tmp_path_factory.mktemp("step") / "model.onnx"
    export_network(SamplerStep(), NETWORKS["sampler_step"], {}, path)
    backend = open_backend("onnxruntime")
    return backend.load(path, NETWORKS["sampler_step"]), backend


@pytest.mark.parametrize("branches", [1, 2])
@pytest.mark.parametrize("name", SAMPLERS)
def test_sampler_step_applies_a_row(step, name, branches):
    engine, backend = step
    sampler = recurrence(name, 7, SCHEDULE)
    sizes = with_derived({"B": 3, "C": branches, "H": 5, "W": 6, "S": sampler.slots})
    inputs = {key: tensor.numpy() for key, tensor in example(engine.spec, sizes, 1).items()}
    scales = np.array([7.5, 1, 3], np.float32)
    inputs["guidance_scale"] = scales
    for matrix in sampler.matrices:
        inputs["matrix"] = np.stack([matrix] * 3)
        found = run_once(engine, backend, inputs, sizes)
        halves = inputs["noise_pred"].reshape(branches, 3, 4, 5, 6).astype(np.float64)
        guided = halves[0] + scales.reshape(-1, 1, 1, 1) * (halves[-1] - halves[0])
        state, model_input = apply_row(matrix.astype(np.float64), inputs["state"], guided, inputs["noise"])
        np.testing.assert_allclose(found["next_state"], state, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found["next_model_input"], model_input, rtol=1e-4, atol=1e-4)
        assert found["finite"].all()


def test_each_image_has_a_matrix_of_its_own(step):
    engine, backend = step
    sizes = with_derived({"B": 3, "C": 1, "H": 4, "W": 4, "S": 2})
    inputs = {key: tensor.numpy() for key, tensor in example(engine.spec, sizes, 2).items()}
    found = run_once(engine, backend, inputs, sizes)
    for image in range(3):
        part = slice(image, image + 1)
        parts = inputs["state"][:, part], inputs["noise_pred"][part], inputs["noise"][part]
        state, model_input = apply_row(inputs["matrix"][image], *parts)
        np.testing.assert_allclose(found["next_state"][:, part], state, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found["next_model_input"][part], model_input, rtol=1e-5, atol=1e-5)


def test_files_have_the_names_axes_and_opset_of_the_specs(demo_engines):
    for name, spec in NETWORKS.items():
        model = onnx.load(demo_engines / name / "model.onnx")
        onnx.checker.check_model(model)
        assert model.opset_import[0].version == OPSET
        for value, tensor in zip([*model.graph.input, *model.graph.output], spec.tensors, strict=True):
            dims = tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)
            assert value.name == tensor.name
            assert dims == tuple({"D": 96, "K": 1}.get(dim, dim) for dim in tensor.dims)
            assert onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name == tensor.dtype


def test_large_weights_go_to_a_file_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "EMBEDDED_BYTES", 1000)

    class Wide(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(400, 32)

        def forward(self, input_ids, clip_skip):
            return self.embedding(input_ids + clip_skip.unsqueeze(1))

    module, spec, path = Wide(), NETWORKS["text_encoder"], tmp_path / "model.onnx"
    export_network(module, spec, {"D": 32}, path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert path.stat().st_size < 10_000
    assert path.with_name("model.onnx.data").stat().st_mode == path.stat().st_mode
    backend, inputs = open_backend("onnxruntime"), example(spec, {"CB": 1})
    given = {name: tensor.numpy() for name, tensor in inputs.items()}
    found = run_once(backend.load(path, spec), backend, given, {"CB": 1, "D": 32})
    np.testing.assert_array_equal(found["text_embeddings"], module(**inputs).detach().numpy())


def test_a_guards_weights_stay_in_its_file(tmp_path, monkeypatch):
    """It is read whole, and is what was verified."""
    monkeypatch.setattr(onnx_file, "EMBEDDED_BYTES", 1000)
    export_network(Guard(Concept(random_heads(SMALL))), NETWORKS["guard"], {"D": SMALL.embed_dim, "K": 1}, tmp_path / "model.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    assert (tmp_path / "model.onnx").stat().st_size > 100_000
