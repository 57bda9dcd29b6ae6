"""Cost of a network's call as a function of the work it is given, fitted to measured medians."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

# Milliseconds of a call as a sum of non-negative multiples of these; P latent pixels of an image, B images.
TERMS = {
    "constant": lambda pixels, images: np.ones_like(pixels),
    "images": lambda pixels, images: images,
    "images*pixels": lambda pixels, images: images * pixels,
    "images*pixels^2": lambda pixels, images: images * pixels**2,
}
MODELS = {
    "guard": ("constant", "images", "images*pixels"),
    "unet": ("constant", "images*pixels", "images*pixels^2"),
    "sampler_step": ("constant", "images*pixels"),
}


@dataclass(frozen=True)
class Curve:
    """`coefficients` of the terms, milliseconds; `worst` the largest relative error at a measured point."""

    network: str
    coefficients: dict[str, float]
    worst: float

    def __call__(self, pixels: np.ndarray | float, images: np.ndarray | float) -> np.ndarray:
        """Milliseconds of a call."""
        pixels, images = np.broadcast_arrays(np.asarray(pixels, np.float64), np.asarray(images, np.float64))
        terms = [value * TERMS[name](pixels, images) for name, value in self.coefficients.items()]
        return np.sum(terms, axis=0)


def fit(network: str, pixels: Sequence[float], images: Sequence[float], milliseconds: Sequence[float]) -> Curve:
    """Least squares of relative errors, coefficients not negative (Lawson and Hanson 1974).

    The quadratic term is self-attention's, whose scores grow with the square of the pixels.

    Raises:
        ValueError: fewer points than terms.
    """
    names = MODELS[network]
    if len(milliseconds) < len(names):
        raise ValueError(f"{network}: expected at least {len(names)} points for {len(names)} terms, found {len(milliseconds)}")
    places, rows, times = (np.asarray(values, np.float64) for values in (pixels, images, milliseconds))
    matrix = np.stack([TERMS[name](places, rows) for name in names], axis=1)
    scale = matrix.max(axis=0)
    solution = nnls(matrix / scale / times[:, None], np.ones(len(times)))[0] / scale
    curve = Curve(network, dict(zip(names, solution.tolist(), strict=True)), 0.0)
    worst = np.abs(curve(places, rows) / times - 1).max()
    return Curve(network, curve.coefficients, float(worst))
