"""The inference form against the trained module, in PyTorch and as an engine, and where the two differ on purpose."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
import torch

from engines.networks import NETWORKS, with_derived
from export.onnx_file import example, export_network
from saferedir.guard import Concept, Guard
from saferedir.heads import Redirector
from tests.conformance_cases import redirector
from tests.random_heads import SMALL, random_heads, run_guard

WIDTH = SMALL.embed_dim
SPEC = NETWORKS["guard"]


def small() -> Redirector:
    """Heads of odd sizes."""
    return random_heads(SMALL)


def inputs_of(width: int, images: int, branches: int, seed: int) -> dict[str, torch.Tensor]:
    """A batch that is checked and found unsafe throughout, so that every output of the rule is compared."""
    inputs = example(SPEC, with_derived({"B": images, "C": branches, "K": 1, "H": 8, "W": 12, "D": width}), seed)
    return inputs | {
        "countdown": torch.zeros(1, images, dtype=torch.int32),
        "threshold": torch.full((1, images), -1.0),
        "alpha_scale": torch.full((1, branches * images), 2.0),
        "replace_steps": torch.full((1, images), 2, dtype=torch.int32),
        "delayed": torch.zeros(images, dtype=torch.bool),
    }


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "mask_again"])
def forms(request, tmp_path_factory):
    """The trained guard, its inference form and the latter's ONNX file."""
    trained = Guard(Concept(small(), request.param))
    path = tmp_path_factory.mktemp("guard") / "model.onnx"
    export_network(trained.for_inference(), SPEC, {"D": WIDTH, "K": 1}, path)
    return trained, trained.for_inference(), path


@pytest.mark.parametrize("images, branches", [(1, 1), (3, 2)])
def test_equals_the_trained_module(forms, images, branches):
    trained, inference, path = forms
    inputs = inputs_of(WIDTH, images, branches, seed=images)
    with torch.no_grad():
        expected, found = trained(*inputs.values()), inference(*inputs.values())
    assert not torch.allclose(expected[0], inputs["original_embeds"], atol=0.1)
    for wanted, one, other in zip(expected, found, run_guard(path, inputs), strict=True):
        torch.testing.assert_close(one, wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(torch.from_numpy(other), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mask_again", [False, True])
def test_equals_the_trained_module_at_full_width(mask_again):
    trained = Guard(Concept(redirector(1), mask_again))
    inputs = inputs_of(768, 3, 2, seed=5)
    with torch.no_grad():
        expected, found = trained(*inputs.values()), trained.for_inference()(*inputs.values())
    for wanted, one in zip(expected, found, strict=True):
        torch.testing.assert_close(one, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["sample", "timestep", "shifts", "original_embeds"])
def test_an_input_that_is_not_finite_is_unsafe_for_its_image_alone(forms, name, value):
    inputs = inputs_of(WIDTH, 2, 1, seed=1) | {"threshold": torch.ones(1, 2)}
    inputs[name].view(2, -1)[0, -1] = value
    _, _, countdown, p_unsafe, unsafe = run_guard(forms[2], inputs)
    assert np.isnan(p_unsafe).tolist() == unsafe.tolist() == [[True, False]]
    assert countdown.tolist() == [[2, 0]]


def test_the_file_holds_what_the_guard_needs(forms):
    trained, _, path = forms
    heads = trained.concepts[0].heads
    graph = onnx.load(path).graph
    assert "BatchNormalization" not in {node.op_type for node in graph.node}
    weights = sum(math.prod(tensor.dims) for tensor in graph.initializer)
    mask = sum(parameter.numel() for parameter in heads.mask_predictor.parameters())
    pruned = SMALL.embed_dim * (77 + 1) + 1  # position table and gate
    trained_weights = sum(parameter.numel() for parameter in heads.parameters())
    assert weights < trained_weights - pruned - (0 if trained.concepts[0].mask_again else mask)


def test_no_direction_is_no_shift_in_both_forms():
    heads = small()
    with torch.no_grad():
        heads.delta_head.scale.zero_()
        inputs = inputs_of(WIDTH, 2, 2, seed=2)
        for guard in (Guard(Concept(heads)), Guard(Concept(heads)).for_inference()):
            assert torch.equal(guard(*inputs.values())[0], inputs["original_embeds"])


def test_a_closed_gate_fades_the_shift_of_the_trained_module_alone():
    heads, inputs = small(), inputs_of(WIDTH, 1, 1, seed=2)
    with torch.no_grad():
        open_gate = Guard(Concept(heads))(*inputs.values())[0]
        heads.gate_linear.bias.fill_(-1000.0)
        assert torch.equal(Guard(Concept(heads))(*inputs.values())[0], inputs["original_embeds"])
        torch.testing.assert_close(Guard(Concept(heads)).for_inference()(*inputs.values())[0], open_gate, rtol=1e-4, atol=1e-5)
