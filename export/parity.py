"""The gate before an engine is accepted: its outputs against PyTorch's, on shapes other than the exported example's."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from engines.backend import Backend, Engine, run_once
from engines.errors import SafeRedirError
from engines.manifest import Geometry
from engines.specs import LONGEST_HISTORY, SHORTEST_HISTORY
from export.onnx_file import example


@dataclass(frozen=True)
class Limits:
    """Cosine at least; error at most, relative to the largest magnitude or, for pictures, in grey levels."""

    cosine: float
    relative_error: float
    grey_levels: int


LIMITS = {"float32": Limits(0.9999, 1e-3, 1), "bfloat16": Limits(0.998, 0.1, 16)}
NEVER_CONSTANT = frozenset({"text_embeddings", "noise_pred", "images"})
Figures = dict[str, dict[str, float]]


class ParityError(SafeRedirError):
    """An engine does not compute what PyTorch computes."""


def gate(module: nn.Module, engine: Engine, backend: Backend, geometry: Geometry, precision: str = "float32") -> Figures:
    """Compare on two shapes (one image without guidance; three with) and return the worst figures of each output.

    Raises:
        ParityError: an output is not finite, is constant, or differs by more than the `LIMITS` of the precision.
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
        with torch.no_grad():
            outputs = module(*inputs.values())
        expected = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
        found = run_once(engine, backend, {name: tensor.numpy() for name, tensor in inputs.items()}, sizes)
        for tensor, reference in zip(engine.spec.outputs, expected, strict=True):
            name = f"{engine.spec.name}.{tensor.name}"
            figures = compare(name, reference.numpy(), found[tensor.name], tensor.name in NEVER_CONSTANT, LIMITS[precision])
            if tensor.name not in worst or figures["max_abs_error"] >= worst[tensor.name]["max_abs_error"]:
                worst[tensor.name] = figures
    return worst


def compare(name: str, expected: np.ndarray, found: np.ndarray, never_constant: bool,
            limits: Limits = LIMITS["float32"]) -> dict[str, float]:
    """Cosine and largest absolute error of one output.

    Raises:
        ParityError: see `gate`.
    """
    if expected.shape != found.shape:
        raise ParityError(f"{name}: expected shape {list(expected.shape)} as in PyTorch, found {list(found.shape)}")
    for origin, values in (("PyTorch", expected), ("the engine", found)):
        if not np.isfinite(values).all():
            raise ParityError(f"{name}: expected finite numbers, {origin} gave NaN or infinity")
        if never_constant and values.std() == 0:
            raise ParityError(f"{name}: expected values that vary, {origin} gave {values.flat[0]} everywhere")
    a, b = expected.astype(np.float64).ravel(), found.astype(np.float64).ravel()
    error = float(np.abs(a - b).max())
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    cosine = min(1.0, float(a @ b / norms)) if norms else float(error == 0)
    limit = {"f": limits.relative_error * max(np.abs(a).max(), 1e-6), "u": limits.grey_levels}.get(expected.dtype.kind, 0)
    if error > limit or cosine < limits.cosine:
        raise ParityError(f"{name}: expected PyTorch's values (cosine at least {limits.cosine}, error at most {limit:.3g}), "
                          f"found cosine {cosine:.6f}, error {error:.3g}")
    return {"cosine": cosine, "max_abs_error": error}
