"""Rearranged layers against diffusers' and torch's own, and who gets which."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.upsampling import Upsample2D
from torch import nn

from engines.backends.registry import BACKENDS
from export.build_command import DEMO_MODEL
from export.exported_networks import EXPORTED_NETWORKS, resolve
from export.rearranged import (
    NARROW,
    WIDE,
    ChannelwiseGroupNorm,
    TransposedUpsampling,
    WinogradPictureConv2d,
    forms_of_decoder,
    forms_of_unet,
    rearranged,
)
from export.wrappers import VaeDecoder

SIZES = [(1, 1, 1), (1, 4, 4), (2, 5, 7), (3, 12, 20), (2, 33, 18)]


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("images, height, width", SIZES)
@torch.no_grad()
def test_upsampling_equals_diffusers(images, height, width):
    layer, x = Upsample2D(12, use_conv=True, out_channels=20), torch.randn(images, 12, height, width)
    assert relative_error(TransposedUpsampling(layer.conv)(x), layer.double()(x.double())) < 2e-6


@pytest.mark.parametrize("shape", [(1, 24, 1, 3), (2, 24, 5, 7), (3, 24, 11)], ids=str)
@pytest.mark.parametrize("mean", [0.0, 100.0])
@torch.no_grad()
def test_norm_equals_torchs(shape, mean):
    """Also where values lie far from zero: then squares less the mean's square would have no digits left."""
    layer, x = nn.GroupNorm(6, 24), mean + torch.randn(shape)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    assert relative_error(ChannelwiseGroupNorm(layer)(x), layer.double()(x.double())) < (1e-4 if mean else 2e-6)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("images, height, width", SIZES)
@torch.no_grad()
def test_convolution_equals_torchs(images, height, width, bias):
    layer, x = nn.Conv2d(24, 40, 3, padding=1, bias=bias), torch.randn(images, 24, height, width)
    assert relative_error(WinogradPictureConv2d(layer)(x), layer.double()(x.double())) < 5e-6


@torch.no_grad()
def test_a_pixel_that_is_not_finite_stays_in_its_picture():
    x = torch.randn(2, 24, 9, 9)
    x[1, 0, 8, 8] = math.nan
    found = WinogradPictureConv2d(nn.Conv2d(24, 8, 3, padding=1))(x)
    assert torch.isfinite(found[0]).all() and torch.isnan(found[1]).any()


def layers(forms, *found: nn.Module) -> list[type[nn.Module]]:
    module = nn.Sequential(*found)
    with rearranged(module, *forms):
        return [type(layer) for layer in module]


def conv(inputs: int, outputs: int, **options) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, **{"kernel_size": 3, "padding": 1, "device": "meta", **options})


@pytest.mark.parametrize(
    "layer",
    [
        conv(NARROW - 1, NARROW),
        conv(NARROW, NARROW - 1),
        conv(NARROW, WIDE + 1),
        conv(NARROW, NARROW, kernel_size=1, padding=0),
        conv(NARROW, NARROW, padding=0),
        conv(NARROW, NARROW, stride=2),
        conv(NARROW, NARROW, dilation=2),
        conv(NARROW, NARROW, groups=2),
        conv(NARROW, NARROW, padding_mode="circular"),
    ],
    ids=str,
)
def test_other_convolutions_stay(layer):
    assert layers(forms_of_unet("float32"), layer) == [nn.Conv2d]


def test_layers_that_do_more_than_double_stay():
    forms = forms_of_decoder("float32")
    kept = Upsample2D(8, use_conv=False), Upsample2D(8, use_conv=True, norm_type="ln_norm", eps=1e-5), Upsample2D(8, True, True)
    assert layers(forms, *kept) == [Upsample2D] * 3
    assert layers(forms, Upsample2D(8, use_conv=True), nn.GroupNorm(2, 8, affine=False)) == [TransposedUpsampling, nn.GroupNorm]


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_winograd_is_for_float32_alone(precision):
    found = conv(NARROW, NARROW, device="cpu"), nn.GroupNorm(2, 8)
    assert layers(forms_of_unet(precision), *found) == [nn.Conv2d, ChannelwiseGroupNorm]
    assert layers(forms_of_unet("float32"), *found) == [WinogradPictureConv2d, nn.GroupNorm]


def test_the_module_is_as_before_afterwards():
    unet = UNet2DConditionModel.from_pretrained(DEMO_MODEL / "unet")
    before = dict(unet.named_modules())
    with pytest.raises(KeyboardInterrupt), rearranged(unet, *forms_of_unet("bfloat16")):
        assert any(isinstance(layer, ChannelwiseGroupNorm) for layer in unet.modules())
        raise KeyboardInterrupt
    assert dict(unet.named_modules()) == before and unet.conv_norm_out.weight.requires_grad


@torch.no_grad()
def test_one_file_takes_every_size(tmp_path):
    """Norms of one shape with weights that are all equal: ONNX Runtime 1.32 lost some of them under another form of the mean."""
    autoencoder = AutoencoderKL.from_pretrained(DEMO_MODEL / "vae").eval()
    for layer in autoencoder.modules():
        if isinstance(layer, nn.GroupNorm):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
    module, path = VaeDecoder(autoencoder), tmp_path / "model.onnx"
    with rearranged(module, *forms_of_decoder("float32")):
        axes = {"latent": {0: "B", 2: "H", 3: "W"}}
        torch.onnx.export(
            module, (torch.randn(1, 4, 9, 5),), str(path), dynamo=False, opset_version=18, input_names=["latent"], dynamic_axes=axes
        )
    assert "ConvTranspose" in {node.op_type for node in onnx.load(path).graph.node}
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for images, height, width in SIZES[1:]:
        latent = torch.randn(images, 4, height, width)
        found = session.run(None, {"latent": latent.numpy()})[0]
        assert np.abs(found.astype(int) - module(latent)[0].numpy().astype(int)).max() <= 1


def test_openvino_alone_gets_them():
    """ONNX Runtime's transposed convolution is no faster than its two steps; a GPU's libraries choose for themselves."""
    assert [name for name, spec in BACKENDS.items() if spec.rearranged] == ["openvino"]
    assert {row.name for row in EXPORTED_NETWORKS if row.forms and resolve(row.forms)("float32")} == {"unet", "vae_decoder"}
