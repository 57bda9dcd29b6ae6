"""On every backend: one NaN or infinity that goes into a network is reported for its image, and for no other."""

from __future__ import annotations

import numpy as np
import pytest

from engines.backends.contract import run_once
from engines.networks import NETWORKS, with_derived
from engines.store.engine_store import EngineStore

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


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("network, name", CASES)
def test_one_number_that_is_not_finite(demo_engines, backend, network, name, value):
    engine = EngineStore(demo_engines).load([network], backend)[network]
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
