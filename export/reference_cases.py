"""What an engine must compute: PyTorch's outputs on random inputs, on shapes other than the exported example's."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from engines.manifest import Geometry
from engines.networks import LONGEST_HISTORY, SHORTEST_HISTORY, NetworkSpec
from engines.store.recorded_cases import Case
from export.onnx_file import example
from export.tensorrt.shape_profile import Profile


def reference_cases(module: nn.Module, spec: NetworkSpec, geometry: Geometry, profile: Profile | None) -> list[Case]:
    """Two calls: one image without guidance, then several with it, as far as the profile admits other shapes."""
    return [_case(module, spec, sizes, seed) for seed, sizes in enumerate(_sizes(geometry, profile))]


def _sizes(geometry: Geometry, profile: Profile | None) -> Iterator[dict[str, int]]:
    unit = geometry.size_multiple
    images, height, width = (1, 3), (2 * unit, 2 * unit), (unit, 3 * unit)
    if profile is not None:
        images = profile.batch.minimum, min(3, profile.batch.maximum)
        height = profile.height.minimum, min(profile.height.minimum + unit, profile.height.maximum)
        width = profile.width.minimum, min(profile.width.minimum + 2 * unit, profile.width.maximum)
    for place, history in enumerate((SHORTEST_HISTORY, LONGEST_HISTORY)):
        yield {
            "B": images[place],
            "CB": (place + 1) * images[place],
            "D": geometry.embed_dim,
            **history,
            "H": height[place] // geometry.scale_factor,
            "W": width[place] // geometry.scale_factor,
            "PH": height[place],
            "PW": width[place],
        }


def _case(module: nn.Module, spec: NetworkSpec, sizes: dict[str, int], seed: int) -> Case:
    inputs = example(spec, sizes, seed)
    if spec.name == "guard" and seed == 0:  # every image unsafe, so that the redirection is compared, too
        inputs["threshold"], inputs["countdown"] = torch.tensor(-1.0), torch.zeros_like(inputs["countdown"])
    elif spec.name == "guard":
        inputs["threshold"] = _undisputed_threshold(module, inputs)
    with torch.no_grad():
        outputs = module(*inputs.values())
    values = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    return Case(
        sizes,
        {name: tensor.numpy() for name, tensor in inputs.items()},
        {tensor.name: value.numpy() for tensor, value in zip(spec.outputs, values, strict=True)},
    )


@torch.no_grad()
def _undisputed_threshold(module: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """The threshold of nine farthest from every image's p_unsafe, so that no decision hangs on rounding."""
    p_unsafe = module(*inputs.values())[2].numpy()
    candidates = np.linspace(0.1, 0.9, 9, dtype=np.float32)
    return torch.tensor(max(candidates, key=lambda candidate: np.abs(p_unsafe - candidate).min()))
