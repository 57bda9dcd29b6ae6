"""The gate before an engine is accepted: its outputs against PyTorch's, on shapes other than the exported example's."""
from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from engines.backend import Backend, Engine, run_once
from engines.manifest import Geometry
from engines.parity import LIMITS, compare
from engines.specs import LONGEST_HISTORY, SHORTEST_HISTORY
from export.onnx_file import example

Figures = dict[str, dict[str, float]]


def gate(module: nn.Module, engine: Engine, backend: Backend, geometry: Geometry, precision: str = "float32") -> Figures:
    """Compare on two shapes (one image without guidance; three with) and return the worst figures of each output.

    `precision` is the one that the network computes in.

    Raises:
        ParityError: an output is not finite, is constant, or differs by more than the limits of `engines.parity`.
    """
    unit = geometry.size_multiple // geometry.scale_factor
    worst: Figures = {}
    for seed, (images, rows, history) in enumerate(((1, 1, SHORTEST_HISTORY), (3, 6, LONGEST_HISTORY))):
        height, width = 2 * unit, 3 * unit if seed else unit
        sizes = {"B": images, "CB": rows, "H": height, "W": width, "D": geometry.embed_dim, **history,
                 "PH": height * geometry.scale_factor, "PW": width * geometry.scale_factor}
        inputs = example(engine.spec, sizes, seed)
        if engine.spec.name == "guard" and seed == 0:  # every image unsafe, so that the redirection is compared, too
            inputs["threshold"], inputs["countdown"] = torch.tensor(-1.0), torch.zeros_like(inputs["countdown"])
        elif engine.spec.name == "guard":
            inputs["threshold"] = _undisputed_threshold(module, inputs)
        with torch.no_grad():
            outputs = module(*inputs.values())
        expected = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        found = run_once(engine, backend, {name: tensor.numpy() for name, tensor in inputs.items()}, sizes)
        for tensor, reference in zip(engine.spec.outputs, expected, strict=True):
            figures = compare(f"{engine.spec.name}.{tensor.name}", reference.numpy(), found[tensor.name], LIMITS[precision])
            if tensor.name not in worst or figures["max_abs_error"] >= worst[tensor.name]["max_abs_error"]:
                worst[tensor.name] = figures
    return worst


@torch.no_grad()
def _undisputed_threshold(module: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """The threshold of nine farthest from every image's p_unsafe, so that no decision hangs on rounding."""
    p_unsafe = module(*inputs.values())[2].numpy()
    candidates = np.linspace(0.1, 0.9, 9, dtype=np.float32)
    return torch.tensor(max(candidates, key=lambda candidate: np.abs(p_unsafe - candidate).min()))
