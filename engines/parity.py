"""How far an engine's output may be from PyTorch's."""
from __future__ import annotations

import numpy as np

from engines.errors import ParityError

COSINE = 0.9999  # at least
RELATIVE_ERROR = 1e-3  # at most, of the largest magnitude
GREY_LEVELS = 1  # at most, for pictures
NEVER_CONSTANT = frozenset({"text_embeddings", "noise_pred", "images"})
Figures = dict[str, dict[str, float]]


def compare(name: str, expected: np.ndarray, found: np.ndarray, never_constant: bool) -> dict[str, float]:
    """Cosine and largest absolute error of one output.

    Raises:
        ParityError: it has another shape, is not finite, is constant, or differs by more than the limits of this module.
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
    limit = {"f": RELATIVE_ERROR * max(np.abs(a).max(), 1e-6), "u": GREY_LEVELS}.get(expected.dtype.kind, 0)
    if error > limit or cosine < COSINE:
        raise ParityError(f"{name}: expected PyTorch's values (cosine at least {COSINE}, error at most {limit:.3g}), "
                          f"found cosine {cosine:.6f}, error {error:.3g}")
    return {"cosine": cosine, "max_abs_error": error}
