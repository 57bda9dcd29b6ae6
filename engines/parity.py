"""How far a network's outputs may be from PyTorch's, and the comparison. Needs numpy alone, so that it runs without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engines.errors import ParityError


@dataclass(frozen=True)
class Limits:
    """`relative_error` is of the largest magnitude of an output, `grey_levels` for pictures."""

    cosine: float  # at least
    relative_error: float  # at most
    grey_levels: int  # at most

    def error(self, expected: np.ndarray) -> float:
        """The largest absolute error of an output that should be `expected`; whole numbers and bools must be equal."""
        if expected.dtype.kind == "f":
            return self.relative_error * max(float(np.abs(expected).max()), 1e-6)
        return float(self.grey_levels) if expected.dtype.kind == "u" else 0.0


# By the precision that a network computes in; figures of several models are in benchmarks/results/precision.json.
LIMITS = {
    "float32": Limits(cosine=0.9999, relative_error=1e-3, grey_levels=1),
    "float16": Limits(cosine=0.9999, relative_error=1e-2, grey_levels=4),
    "bfloat16": Limits(cosine=0.998, relative_error=0.1, grey_levels=16),
    # Wide, for the recorded inputs are random, and ranges are calibrated on real ones: of the worst pixel next to nothing is asked.
    # The gate on decisions is the narrow one.
    "int8": Limits(cosine=0.99, relative_error=0.2, grey_levels=128),
}
Figures = dict[str, dict[str, float]]  # output → figure → value


def compare(name: str, expected: np.ndarray, actual: np.ndarray, limits: Limits, varies: bool = False) -> dict[str, float]:
    """Cosine and largest absolute error of one output, `name` as network.output; whole numbers and bools must be equal.

    `varies`: whether one value everywhere is an error (see `engines.networks.TensorSpec`).

    Raises:
        ParityError: another shape, NaN or infinity, one value everywhere, or beyond the limits.
    """
    if expected.shape != actual.shape:
        raise ParityError(f"{name}: expected shape {list(expected.shape)} as in PyTorch, found {list(actual.shape)}")
    for origin, values in (("PyTorch", expected), ("the engine", actual)):
        if not np.isfinite(values).all():
            raise ParityError(f"{name}: expected finite numbers, {origin} gave NaN or infinity")
        if varies and values.std() == 0:
            raise ParityError(f"{name}: expected values that vary, {origin} gave {values.flat[0]} everywhere")
    a, b = expected.astype(np.float64).ravel(), actual.astype(np.float64).ravel()
    error = float(np.abs(a - b).max())
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    cosine = min(1.0, float(a @ b / norms)) if norms else float(error == 0)
    limit = limits.error(expected)
    if error > limit or cosine < limits.cosine:
        raise ParityError(
            f"{name}: expected PyTorch's values (cosine at least {limits.cosine}, error at most {limit:.3g}), "
            f"found cosine {cosine:.6f}, error {error:.3g}"
        )
    return {"cosine": cosine, "max_abs_error": error}


def worst(figures: Figures) -> tuple[float, float]:
    """Lowest cosine and largest absolute error over a network's outputs."""
    outputs = figures.values()
    return min(output["cosine"] for output in outputs), max(output["max_abs_error"] for output in outputs)


def in_words(figures: Figures) -> str:
    """The figures that `worst` gives, as text."""
    cosine, error = worst(figures)
    return f"cosine {cosine:.6f}, largest error {error:.1e}"
