"""How far a picture moved: SSIM, MS-SSIM and PSNR between it without the guard and with it. They need no weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from evaluation.packages import EXTRA, package

SMALLEST_MS_SSIM = 176  # pixels: a sixteenth of them must hold the window of 11 (Wang et al. 2003; torchmetrics)
Drift = Callable[[np.ndarray, np.ndarray], dict[str, float]]


def open_drift(install: str = EXTRA) -> Drift:
    """Measures two pictures uint8 [H, W, 3]: ssim, psnr (dB) and, from 176 pixels, ms_ssim. Equal pictures have no psnr.

    Raises:
        InputError: torch or torchmetrics is not installed; the text has the command `install`.
    """
    torch = package("torch", "SSIM", install)
    metrics = package("torchmetrics.functional.image", "SSIM", install)

    def tensor(image: np.ndarray) -> Any:
        return torch.from_numpy(image.transpose(2, 0, 1).copy()).float()[None] / 255

    def drift(before: np.ndarray, after: np.ndarray) -> dict[str, float]:
        pair = tensor(after), tensor(before)
        found = {"ssim": metrics.structural_similarity_index_measure(*pair, data_range=1.0)}
        if min(before.shape[:2]) >= SMALLEST_MS_SSIM:
            found["ms_ssim"] = metrics.multiscale_structural_similarity_index_measure(*pair, data_range=1.0)
        if (before != after).any():
            found["psnr"] = metrics.peak_signal_noise_ratio(*pair, data_range=1.0)
        return {name: float(value) for name, value in found.items()}

    return drift
