"""Convolutions on tiles against nn.Conv2d, the encoder made of them, and which backends get it."""

from __future__ import annotations

import math
from importlib.util import find_spec

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from benchmarks.suite.flops import count
from engines.backends.registry import backend_spec
from engines.geometry import Geometry
from engines.networks import NETWORKS, with_derived
from export.build_network import build_network
from export.exported_networks import EXPORTED_NETWORKS
from export.jobs import NetworkJob
from export.onnx_file import example, export_network
from saferedir.guard import Concept, Guard
from saferedir.heads import Redirector, RedirectorConfig
from saferedir.inference.algebra import InferenceHeads
from saferedir.inference.winograd import TILE, WIDE, WinogradBlocks, WinogradConv2d, into_tiles, tile, with_winograd
from tests.random_heads import random_heads, run_guard

SPEC, WIDTH = NETWORKS["guard"], 32
SIZES = [(1, 1, 1), (1, 4, 4), (2, 5, 7), (3, 12, 20), (1, 64, 64), (2, 96, 64)]
BACKENDS = [
    "onnxruntime",
    pytest.param("openvino", marks=pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")),
]


def wide() -> Redirector:
    """Two wide blocks."""
    return random_heads(RedirectorConfig(embed_dim=WIDTH, encoder_widths=(16, WIDE, WIDE + 32), latent_features=40))


def inputs_of(images: int, height: int, width: int) -> dict[str, torch.Tensor]:
    """A batch that is checked and found unsafe, so that the redirection is compared."""
    inputs = example(SPEC, with_derived({"B": images, "C": 2, "K": 1, "H": height, "W": width, "D": WIDTH}))
    return inputs | {"countdown": torch.zeros(1, images, dtype=torch.int32), "threshold": torch.full((1, images), -1.0)}


@pytest.fixture(scope="module")
def guards(tmp_path_factory):
    """The trained guard and the file of the one with Winograd's convolutions."""
    path = tmp_path_factory.mktemp("guard") / "model.onnx"
    trained = Guard(Concept(wide()))
    export_network(trained.for_inference(winograd=True), SPEC, {"D": WIDTH, "K": 1}, path)
    return trained, path


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def pictures(tiles: torch.Tensor, images: int, height: int, width: int) -> torch.Tensor:
    """[16, T, C] as [B, C, H, W]."""
    down, across = math.ceil(height / TILE), math.ceil(width / TILE)
    inner = tiles.unflatten(1, (images, -1))[:, :, 1:].unflatten(2, (down, across)).unflatten(0, (TILE, TILE))
    return inner.permute(2, 5, 3, 0, 4, 1).flatten(4, 5).flatten(2, 3)[:, :, :height, :width]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("images, height, width", SIZES)
@torch.no_grad()
def test_convolution_equals_torchs(images, height, width, bias):
    torch.manual_seed(1)
    conv, x = nn.Conv2d(24, 40, 3, padding=1, bias=bias), torch.randn(images, 24, height, width)
    places = tile(images, height, width)
    found = WinogradConv2d(conv)(into_tiles(x, places), places)
    assert relative_error(pictures(found, images, height, width), conv.double()(x.double())) < 5e-6
    assert not found.unflatten(1, (images, -1))[:, :, 0].any()  # the tiles of zeros


@pytest.mark.parametrize("images, height, width", SIZES)
@torch.no_grad()
def test_encoder_equals_the_trained_one(images, height, width):
    trained, x = wide().latent_encoder, torch.randn(images, 4, height, width)
    assert relative_error(with_winograd(trained)(x), trained.double()(x.double())) < 5e-6


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("images, height, width", SIZES)
def test_one_file_takes_every_size(guards, backend, images, height, width):
    trained, path = guards
    inputs = inputs_of(images, height, width)
    with torch.no_grad():
        expected = trained(*inputs.values())
    for wanted, found in zip(expected, run_guard(path, inputs, backend), strict=True):
        torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=1e-5, atol=1e-5)


def test_its_operations_can_be_counted_for_any_size(guards):
    """Every shape follows from the inputs': the graph branches nowhere."""
    assert not {node.op_type for node in onnx.load(guards[1]).graph.node} & {"If", "Loop", "Scan"}
    small, large = (count(guards[1], {"B": 1, "CB": 2, "K": 1, "H": side, "W": side}) for side in (8, 64))
    assert not small.uncounted and small.flops < large.flops


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_latent_that_is_not_finite_is_unsafe_for_its_image_alone(guards, backend, value):
    inputs = inputs_of(2, 8, 12) | {"threshold": torch.ones(1, 2)}
    inputs["sample"][0, 1, 7, 11] = value
    _, _, countdown, p_unsafe, unsafe = run_guard(guards[1], inputs, backend)
    assert np.isnan(p_unsafe).tolist() == unsafe.tolist() == [[True, False]]
    assert countdown.tolist() == [[int(inputs["replace_steps"][0, 0]), 0]]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@torch.no_grad()
def test_what_is_not_finite_reaches_the_mean_of_its_image_alone(value):
    blocks = next(module for module in with_winograd(wide().latent_encoder) if isinstance(module, WinogradBlocks))
    features = torch.randn(2, 16, 9, 9)
    features[1, 0, 8, 8] = value
    means = blocks(features)
    assert torch.isfinite(means[0]).all() and torch.isnan(means[1]).any()


@torch.no_grad()
def test_the_trained_module_stays_as_it_was():
    trained = wide()
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    InferenceHeads(trained, winograd=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.state_dict().items())


def test_narrow_encoders_keep_their_convolutions():
    narrow = Redirector(RedirectorConfig(embed_dim=WIDTH, encoder_widths=(32, 64, 96))).latent_encoder
    assert with_winograd(narrow) is narrow
    last = Redirector(RedirectorConfig(embed_dim=WIDTH, encoder_widths=(WIDE, 64, WIDE))).latent_encoder
    assert [type(module) for module in with_winograd(last)[:3]] == [type(last[0]), type(last[0]), WinogradBlocks]


@pytest.mark.parametrize(
    "backend, convolutions", [("openvino", 3), ("onnxruntime", 3), ("onnxruntime-cuda", 9), ("tensorrt", 9), ("tensorrt-rtx", 9)]
)
def test_which_backends_get_it(backend, convolutions, tmp_path, monkeypatch):
    class Exported(Exception):
        pass

    def stop(*_args):
        raise Exported

    monkeypatch.setattr("export.reference_cases.reference_cases", stop)
    job = NetworkJob(
        row=next(row for row in EXPORTED_NETWORKS if row.name == "guard"),
        backend=backend_spec(backend),
        backend_precision="float32",
        precision="float32",
        geometry=Geometry(WIDTH, 4, 64, 64, 2),
        concepts=1,
        module=lambda: Guard(Concept(wide())),
        plan=None,
        decided_by={},
    )
    (tmp_path / "guard").mkdir()
    with pytest.raises(Exported):
        build_network(job, tmp_path)
    nodes = onnx.load(tmp_path / "guard" / "model.onnx").graph.node
    assert sum(node.op_type == "Conv" for node in nodes) == convolutions
