"""3x3 convolutions in a quarter of the multiplications, for processors whose arithmetic is what bounds them.

Source: A. Lavin and S. Gray, arXiv 1509.09308, F(4x4, 3x3): a window of 6x6 pixels and the kernel are each transformed to 36
values, whose products, summed over the channels, are 36 matrix products; transformed back, these are a tile of 4x4 pixels.

Between convolutions, pixels stay as [16, T, C] of T tiles: first the upper left pixel of every tile, last the lower right one. Each
image's tiles begin with one of zeros, which stands for all that lies outside of the picture.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from saferedir.heads import ResidualBlock

WIDE = 128  # output channels from which on the products saved outweigh the transforms
TILE, WINDOW = 4, 6

# A 1-D tile is a product of polynomials, taken by its values at these points and at infinity. With 0, ±1, ±2, the paper's, the
# largest error is four times as large (256 channels), and all numbers of the transforms of data are exact in float32 with either.
POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)


def _transforms() -> tuple[Tensor, Tensor, Tensor]:
    """The paper's B transposed [6, 6], G [6, 3] and A transposed [4, 6], in float64."""
    others = [[other for other in POINTS if other != point] for point in POINTS]
    lagrange = torch.tensor([_coefficients(roots) + [0.0] for roots in others] + [_coefficients(POINTS)], dtype=torch.float64)
    scale = torch.tensor(
        [math.prod(point - root for root in roots) for point, roots in zip(POINTS, others, strict=True)] + [1.0],
        dtype=torch.float64,
    )
    return lagrange, _powers(WINDOW - TILE + 1) / scale.unsqueeze(1), _powers(TILE).T.contiguous()


def _coefficients(roots: Sequence[float]) -> list[float]:
    """Of the polynomial with these roots and leading coefficient 1, the constant first."""
    coefficients = [1.0]
    for root in roots:
        coefficients = [up - root * same for up, same in zip([0.0, *coefficients], [*coefficients, 0.0], strict=True)]
    return coefficients


def _powers(count: int) -> Tensor:
    """The powers 0 to count - 1 of every point [6, count]; of infinity the last alone."""
    return torch.tensor(
        [[point**power for power in range(count)] for point in POINTS] + [[float(power == count - 1) for power in range(count)]],
        dtype=torch.float64,
    )


class Tiling(NamedTuple):
    """Latents [B, C, H, W] in T = B · (1 + ⌈H/4⌉ · ⌈W/4⌉) tiles.

    `pixels` int64 [16·T]: where the tiles' pixels are among 1 + B·H·W, of which the first is zero. `windows` int64 [T·36]: where
    the pixels of each tile's window are among [16·T]. `filled` float32 [T, 1]: 0 for tiles of zeros, else 1. `shares` float32
    [16, 1, 1, T/B]: the share of each pixel in the mean over its picture.
    """

    pixels: Tensor
    windows: Tensor
    filled: Tensor
    shares: Tensor


def tile(images: int, height: int, width: int) -> Tiling:
    """The tiling for one size. Under tracing the sizes are tensors and the graph takes any."""
    down, across = (height + TILE - 1) // TILE, (width + TILE - 1) // TILE
    image = torch.arange(images).reshape(-1, 1)
    row, column, inside = _places(height, width, down, across, TILE, 0)
    pixel = torch.where(inside, 1 + image * (height * width) + row * width + column, 0)  # [B, 16 of each tile]
    share = inside.float().unsqueeze(0) / (height * width)

    row, column, known = _places(height, width, down, across, WINDOW, -1)
    within = (row % TILE * TILE + column % TILE) * (images * (1 + down * across))
    window = within + image * (1 + down * across) + 1 + row // TILE * across + column // TILE
    filled = torch.ones(images, down * across)
    return Tiling(
        _after_zeros(pixel, TILE).flatten(0, 1).T.flatten(),
        _after_zeros(torch.where(known, window, 0), WINDOW).flatten(),
        nn.functional.pad(filled, (1, 0)).reshape(-1, 1),
        _after_zeros(share, TILE).flatten(0, 1).T.reshape(TILE**2, 1, 1, -1),
    )


def _places(height: int, width: int, down: int, across: int, size: int, start: int) -> tuple[Tensor, Tensor, Tensor]:
    """Row, column and whether they are in the picture, [down · across · size²] each, for every tile's window in turn.

    Windows are `size` wide and begin `start` from their tile.
    """
    window = torch.arange(start, start + size)
    row = (TILE * torch.arange(down)).reshape(-1, 1, 1, 1) + window.reshape(-1, 1)
    column = (TILE * torch.arange(across)).reshape(-1, 1, 1) + window
    row, column = (axis.flatten() for axis in torch.broadcast_tensors(row, column))
    return row, column, (row >= 0) & (row < height) & (column >= 0) & (column < width)


def _after_zeros(values: Tensor, size: int) -> Tensor:
    """[images, tiles · size²] as [images, 1 + tiles, size²], zeros first."""
    return nn.functional.pad(values.unflatten(1, (-1, size * size)), (0, 0, 1, 0))


def into_tiles(x: Tensor, tiling: Tiling) -> Tensor:
    """[B, C, H, W] as [16, T, C]."""
    pixels = nn.functional.pad(x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]), (0, 0, 1, 0))
    return pixels.index_select(0, tiling.pixels).unflatten(0, (TILE**2, -1))


class WinogradConv2d(nn.Module):
    """nn.Conv2d with a 3x3 kernel and a padding of 1, on tiles. The kernel's transform is taken in float64."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        data, kernel, result = _transforms()
        weight = torch.einsum("ia,jb,ocab->ijco", kernel, kernel, conv.weight.double())
        self.weight = nn.Parameter(weight.flatten(0, 1).float())  # [36, in, out]
        self.bias = nn.Parameter(torch.zeros(conv.out_channels) if conv.bias is None else conv.bias.detach().float())
        self.transform = nn.Parameter(torch.kron(data, data).float())
        self.back = nn.Parameter(torch.kron(result, result).float())

    def forward(self, x: Tensor, tiling: Tiling) -> Tensor:
        """float32 [16, T, in] → [16, T, out]; tiles of zeros stay zero."""
        _, channels, width = self.weight.shape
        windows = x.reshape(-1, channels).index_select(0, tiling.windows).reshape(-1, WINDOW**2, channels)
        # By tile, for each tile's window is then one piece of memory; ONNX Runtime's product takes the transpose in.
        products = (self.transform @ windows).transpose(0, 1) @ self.weight  # [36, T, out]
        return (self.back @ products.flatten(1)).reshape(TILE**2, -1, width) + tiling.filled * self.bias


class _Block(nn.Module):
    """A residual block on tiles."""

    def __init__(self, block: ResidualBlock) -> None:
        super().__init__()
        block = copy.deepcopy(block).double().eval()
        layers: list[Any] = list(block.conv)
        first, second = (fuse_conv_bn_eval(layers[place], layers[place + 1]) for place in (0, 3))
        second.bias = nn.Parameter(second.bias + block.downsample.bias)
        self.first, self.second = WinogradConv2d(first), WinogradConv2d(second)
        self.downsample = nn.Parameter(block.downsample.weight.flatten(1).T.contiguous().float())

    def forward(self, x: Tensor, tiling: Tiling) -> Tensor:
        added = self.second(torch.relu(self.first(x, tiling)), tiling)
        return torch.relu(added + x @ self.downsample)


class WinogradBlocks(nn.Module):
    """Residual blocks in a row, then the mean over the picture: float32 [B, C, H, W] → [B, width of the last]."""

    def __init__(self, *blocks: ResidualBlock) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block(block) for block in blocks)

    def forward(self, x: Tensor) -> Tensor:
        images, _, height, width = x.shape
        tiling = tile(images, height, width)
        x = into_tiles(x, tiling)
        for block in self.blocks:
            x = block(x, tiling)
        return (tiling.shares @ x.unflatten(1, (images, -1))).sum(dim=0).flatten(1)


def with_winograd(encoder: nn.Sequential) -> nn.Sequential:
    """A latent encoder whose last blocks are computed so, as far as they are wide; the others and the layers after stay."""
    blocks = [module for module in encoder if isinstance(module, ResidualBlock)]
    kept = len(blocks)
    while kept and blocks[kept - 1].downsample.out_channels >= WIDE:
        kept -= 1
    if kept == len(blocks):
        return encoder
    after = list(encoder)[len(blocks) + 2 :]  # the mean over the picture and its flattening are in WinogradBlocks
    return nn.Sequential(*blocks[:kept], WinogradBlocks(*blocks[kept:]), *after)
