"""Integrals of Lagrange's basis polynomials: the weights of a linear multistep solver."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(16)  # exact to degree 31


def integrals(
    nodes: np.ndarray, start: float, end: float, density: Callable[[np.ndarray], np.ndarray] = np.ones_like
) -> np.ndarray:
    """∫ from start to end of density · each basis polynomial over `nodes` [n]; float64 [n]. The density must be smooth."""
    middle, half = (start + end) / 2, (end - start) / 2
    points = middle + half * _POINTS
    others = [np.delete(nodes, k) for k in range(len(nodes))]
    basis = [np.prod((points[:, None] - o) / (node - o), axis=1) for node, o in zip(nodes, others, strict=True)]
    return np.asarray(half * (np.array(basis) @ (_WEIGHTS * density(points))))
