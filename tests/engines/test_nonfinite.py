"""On every backend: one NaN or infinity that goes into a network is reported for its image, and for no other."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from engines.backends.contract import run_once
from engines.networks import NETWORKS, NEVER, NOT_CHECKED, with_derived
from engines.store.engine_store import EngineStore
from export.onnx_file import example, export_network
from saferedir.guard import Concept, Guard
from tests.random_heads import SMALL, random_heads, run_guard

SIZES = with_derived({"B": 2, "C": 2, "K": 1, "S": 4, "H": 8, "W": 12, "D": 96, "f": 4})
BROKEN = 1  # image
SILENT = ("token_mask",)  # explains what the guard decided, and decides nothing
CASES = [
    (network, tensor.name)
    for network, spec in NETWORKS.items()
    for tensor in spec.inputs
    if network not in SILENT and tensor.dtype == "float32" and {"B", "CB"} & set(tensor.dims)
]


def sound(found: dict[str, np.ndarray], network: str) -> list[bool]:
    """For each image, whether the network's outputs say that it is sound."""
    if network == "unet":
        rows = np.isfinite(found["noise_pred"]).all(axis=(1, 2, 3))
        return (rows[:2] & rows[2:]).tolist()
    return (np.isfinite(found["p_unsafe"][0]) if network == "guard" else found["finite"]).tolist()


@pytest.fixture(scope="module")
def engine_of(demo_engines, backend):
    """The engine of a network; each is loaded, and compiled, once."""
    return cache(lambda network: EngineStore(demo_engines).load([network], backend)[network])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("network, name", CASES)
def test_one_number_that_is_not_finite(engine_of, backend, network, name, value):
    engine = engine_of(network)
    draw = np.random.default_rng(0)
    inputs = {
        tensor.name: np.array(draw.standard_normal(tensor.shape(SIZES)) / 2 if tensor.dims else 0.5, np.float32)
        if tensor.dtype == "float32"
        else np.zeros(tensor.shape(SIZES), tensor.dtype)
        for tensor in engine.spec.inputs
    }
    assert sound(run_once(engine, backend, inputs, SIZES), network) == [True, True]
    dims = next(tensor.dims for tensor in engine.spec.inputs if tensor.name == name)
    axis = next(place for place, dim in enumerate(dims) if dim in ("B", "CB"))
    broken = inputs[name].take(-1, axis).shape, tuple([slice(None)] * axis + [BROKEN if dims[axis] == "B" else 2 + BROKEN])
    part = np.zeros(broken[0], np.float32)
    part.flat[part.size // 2] = value
    inputs[name][broken[1]] += part
    assert sound(run_once(engine, backend, inputs, SIZES), network) == [True, False]


@pytest.mark.parametrize("part", ["classifier.3.bias", "delta_head.scale", "alpha_predictor.net.2.bias"])
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_nan_of_a_concept_that_is_off_touches_nothing(tmp_path, name, part):
    broken, heads, found = random_heads(SMALL), random_heads(SMALL), []
    with torch.no_grad():
        dict(broken.named_parameters())[part].fill_(np.nan)
    for concepts in ([broken, heads], [heads]):
        sizes = with_derived({"B": 2, "C": 2, "K": len(concepts), "H": 8, "W": 8, "D": SMALL.embed_dim})
        guard, path = Guard(*map(Concept, concepts)).for_inference(winograd=True), tmp_path / f"{len(concepts)}.onnx"
        export_network(guard, NETWORKS["guard"], {"D": SMALL.embed_dim, "K": len(concepts)}, path)
        inputs = example(NETWORKS["guard"], sizes)
        inputs["shifts"].zero_()
        inputs["threshold"].zero_()
        inputs["alpha_scale"].fill_(1)
        inputs["countdown"] = torch.tensor([[NEVER] * 2, [0] * 2][-len(concepts) :], dtype=torch.int32)
        found.append(run_guard(path, inputs, name))
    (embeds, shifts, countdown, p_unsafe, unsafe), (alone, shift, _, p_alone, _) = found
    assert (shifts[0] == 0).all() and (p_unsafe[0] == NOT_CHECKED).all() and not unsafe[0].any() and unsafe[1].all()
    assert (countdown[0] == NEVER - 1).all() and np.abs(shift).max() > 0.1
    for value, reference in ((embeds, alone), (shifts[1], shift[0]), (p_unsafe[1], p_alone[0])):
        np.testing.assert_allclose(value, reference, rtol=1e-5, atol=1e-6)
