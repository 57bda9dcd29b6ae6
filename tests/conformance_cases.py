"""The recorded cases: their inputs, drawn anew from seeds and names, and their expected outputs."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

import numpy as np
import torch

from saferedir.heads import Redirector

FOLDER = Path(__file__).parent / "conformance"
INDEX = json.loads((FOLDER / "index.json").read_text())
SHAPES = json.loads((FOLDER / "checkpoint_manifest.json").read_text())


def _stream(seed: int, name: str) -> np.random.Generator:
    """Every array has a stream of its own, so that cases can be made in any order."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "little"))


def normal(seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    return _stream(seed, name).standard_normal(shape).astype(np.float32)


def _parameter(seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    stream = _stream(seed, name)
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name == "delta_head.scale":
        return np.ones(shape, np.float32)
    if name.endswith("running_var"):
        return stream.uniform(0.5, 1.5, shape).astype(np.float32)
    values = stream.standard_normal(shape)
    if len(shape) >= 2 and name != "pos_embed":
        return (values * (1.4 / np.sqrt(np.prod(shape[1:])))).astype(np.float32)
    return (1 + 0.1 * values if name.endswith("weight") else 0.1 * values).astype(np.float32)


@cache
def redirector(seed: int) -> Redirector:
    """Heads with the case's synthetic weights, loaded by the published names."""
    model = Redirector()
    model.load_state_dict({name: torch.from_numpy(_parameter(seed, name, tuple(shape))) for name, shape in SHAPES.items()})
    return model.eval()


def expected(case: dict) -> dict[str, np.ndarray]:
    with np.load(FOLDER / case["file"]) as arrays:
        return dict(arrays)


class StandInUnet:
    """The traces' denoiser: sqrt(1 - abar[round t]) · sample + 0.3 tanh(mean over tokens of e · P)."""

    def __init__(self, seed: int) -> None:
        self.projection = (_stream(seed, "unet.P").standard_normal((768, 4)) * 1.5).astype(np.float32)
        betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=np.float32) ** 2
        self.abar = np.cumprod(1 - betas, dtype=np.float32)

    def __call__(self, sample: np.ndarray, timestep: float, embeds: np.ndarray) -> np.ndarray:
        offset = 0.3 * np.tanh(embeds.mean(axis=1) @ self.projection)
        return np.sqrt(1 - self.abar[round(float(timestep))]) * sample + offset[:, :, None, None]
