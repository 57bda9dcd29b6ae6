"""Layers of diffusers as processors compute them in less time. What they compute is the same, but for rounding.

Which backend gets which is in its row (`engines.backends.registry`), which network in its own (`export.exported_networks`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from saferedir.inference.winograd import TILE, WINDOW, WinogradConv2d

# Output channels of the UNet's convolutions that are Winograd's: with fewer the transforms outweigh the products saved; where the
# published models have more, pictures are small and weights large, and Winograd's are four times as large.
NARROW, WIDE = 128, 640

Form = Callable[[nn.Module], nn.Module | None]  # what takes a layer's place; None where it stays

# Of a kernel's three rows (or columns), which the transposed kernel's four are sums of: doubled pixels lie side by side, so two
# neighbouring rows of the kernel meet the same pixel.
_SUMS = ((0.0, 0.0, 1.0), (0.0, 1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 0.0, 0.0))


class TransposedUpsampling(nn.Module):
    """Each pixel doubled, then a 3x3 convolution, as one transposed convolution: four products for nine.

    float32 [B, C, H, W] → [B, C', 2·H, 2·W].
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        sums = torch.tensor(_SUMS, dtype=torch.float64)
        weight = torch.einsum("ar,oirc,bc->ioab", sums, conv.weight.double(), sums)
        self.weight, self.bias = nn.Parameter(weight.float()), conv.bias

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv_transpose2d(x, self.weight, self.bias, stride=2, padding=1)


class ChannelwiseGroupNorm(nn.Module):
    """nn.GroupNorm by means over each channel, so that channels need not lie side by side: float32 [B, C, …]."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.groups, self.width, self.eps = norm.num_groups, norm.num_channels // norm.num_groups, norm.eps
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = (values.reshape(-1, *[1] * (x.dim() - 2)) for values in (self.weight, self.bias))
        mean = self._of_groups(x)
        scale = weight / torch.sqrt(self._of_groups((x - mean).square()) + self.eps)
        return x * scale + (bias - mean * scale)

    def _of_groups(self, x: Tensor) -> Tensor:
        """For each channel the mean over its group [B, C, 1, …]."""
        means = x.mean(tuple(range(2, x.dim()))).reshape(-1, self.groups, self.width).mean(2, keepdim=True)
        return means.repeat(1, 1, self.width).reshape(-1, self.groups * self.width, *[1] * (x.dim() - 2))


class WinogradPictureConv2d(nn.Module):
    """A 3x3 convolution with a padding of 1 in a quarter of the multiplications, as `saferedir.inference.winograd` has it.

    float32 [B, C, H, W] → [B, C', H, W]. The weights are four times as large.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.on_tiles = WinogradConv2d(conv)

    def forward(self, x: Tensor) -> Tensor:
        images, channels, height, width = x.shape
        down, across = (height + TILE - 1) // TILE, (width + TILE - 1) // TILE
        padded = nn.functional.pad(x.permute(0, 2, 3, 1), (0, 0, *[1, WINDOW - 1] * 2))
        rows = torch.stack([padded[:, row : row + TILE * down : TILE] for row in range(WINDOW)])
        windows = torch.stack([rows[:, :, :, column : column + TILE * across : TILE] for column in range(WINDOW)], dim=1)
        conv = self.on_tiles
        products = (conv.transform @ windows.reshape(WINDOW**2, -1)).reshape(WINDOW**2, -1, channels) @ conv.weight
        tiles = (conv.back @ products.flatten(1)).reshape(TILE, TILE, images, down, across, -1) + conv.bias
        return tiles.permute(2, 5, 3, 0, 4, 1).reshape(images, -1, TILE * down, TILE * across)[:, :, :height, :width]


def forms_of_unet(precision: str) -> Sequence[Form]:
    """Winograd's products are sums of many values, which half precision and int8 are too coarse for."""
    return [_winograd] if precision == "float32" else [_channelwise_norm]


def forms_of_decoder(precision: str) -> Sequence[Form]:
    """The UNet upsamples, too, but not always by two: to the size of what it is added to."""
    return [_transposed_upsampling, _channelwise_norm]


def _transposed_upsampling(layer: nn.Module) -> nn.Module | None:
    if not isinstance(layer, Upsample2D) or not layer.interpolate or layer.norm is not None:
        return None
    conv = _plain(getattr(layer, "conv", None))
    return None if conv is None else TransposedUpsampling(conv)


def _channelwise_norm(layer: nn.Module) -> nn.Module | None:
    return ChannelwiseGroupNorm(layer) if isinstance(layer, nn.GroupNorm) and layer.affine else None


def _winograd(layer: nn.Module) -> nn.Module | None:
    conv = _plain(layer)
    if conv is None or conv.in_channels < NARROW or not NARROW <= conv.out_channels <= WIDE:
        return None
    return WinogradPictureConv2d(conv)


def _plain(layer: object) -> nn.Conv2d | None:
    """The layer, if it is a convolution with a 3x3 kernel, a stride of 1 and a padding of 1 by zeros."""
    if not isinstance(layer, nn.Conv2d):
        return None
    settings = layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups, layer.padding_mode
    return layer if settings == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros") else None


@contextmanager
def rearranged(module: nn.Module, *forms: Form) -> Iterator[None]:
    """Within the block, layers of `module` are what the first form that fits makes of them. Their weights are shared or derived."""
    places = [(parent, name, layer) for parent in list(module.modules()) for name, layer in list(parent.named_children())]
    changed = []
    try:
        for parent, name, layer in places:
            found = next((new for form in forms if (new := form(layer)) is not None), None)
            if found is not None:
                changed.append((parent, name, layer))
                setattr(parent, name, found)
        yield
    finally:
        for parent, name, layer in changed:
            setattr(parent, name, layer)
