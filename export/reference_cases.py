"""What an engine must compute: PyTorch's outputs on random inputs, on shapes other than the exported example's."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from engines.geometry import Geometry
from engines.networks import SLOTS
from engines.store.recorded_cases import Case
from export.exported_networks import ExportedNetwork, resolve
from export.onnx_file import example
from export.tensorrt.shape_profile import Profile


def reference_cases(
    module: nn.Module, row: ExportedNetwork, geometry: Geometry, concepts: int, profile: Profile | None
) -> list[Case]:
    """Two calls: one image without guidance, then several with it, as far as the profile admits other shapes.

    The second has an odd latent size, which the UNet's downsamplings do not halve evenly.
    """
    return [_case(module, row, sizes, seed) for seed, sizes in enumerate(_sizes(geometry, concepts, profile))]


def _sizes(geometry: Geometry, concepts: int, profile: Profile | None) -> Iterator[dict[str, int]]:
    unit = geometry.scale_factor
    images, height, width = (1, 3), (8 * unit, 9 * unit), (4 * unit, 13 * unit)
    if profile is not None:
        images = profile.batch.minimum, min(3, profile.batch.maximum)
        height = profile.height.minimum, min(profile.height.minimum + unit, profile.height.maximum)
        width = profile.width.minimum, min(profile.width.minimum + 9 * unit, profile.width.maximum)
    for place, slots in enumerate((SLOTS[0], SLOTS[-1])):
        yield geometry.sizes(height[place], width[place], B=images[place], C=place + 1, K=concepts, S=slots)


def _case(module: nn.Module, row: ExportedNetwork, sizes: dict[str, int], seed: int) -> Case:
    inputs = example(row.spec, sizes, seed)
    if row.settle is not None:
        resolve(row.settle)(module, inputs, seed)
    with torch.no_grad():
        outputs = module(*inputs.values())
    values = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    return Case(
        sizes,
        {name: tensor.numpy() for name, tensor in inputs.items()},
        {tensor.name: value.numpy() for tensor, value in zip(row.spec.outputs, values, strict=True)},
    )


def settle_guard(module: nn.Module, inputs: dict[str, Tensor], seed: int) -> None:
    """First every image unsafe, so that the redirection is compared, too; then decisions that do not depend on rounding."""
    if seed == 0:
        inputs["threshold"].fill_(-1)
        inputs["countdown"].zero_()
    else:
        inputs["threshold"].fill_(_undisputed_threshold(module, inputs))


@torch.no_grad()
def _undisputed_threshold(module: nn.Module, inputs: dict[str, Tensor]) -> float:
    """The threshold of nine farthest from every image's p_unsafe."""
    p_unsafe = module(*inputs.values())[3].numpy()
    candidates = np.linspace(0.1, 0.9, 9)
    return float(max(candidates, key=lambda candidate: np.abs(p_unsafe - candidate).min()))
