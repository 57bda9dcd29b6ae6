"""The initial noise of a seed: torch's CPU normal stream, without torch. The same seed gives the same picture."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import numpy as np

from engines.errors import InputError

_BLOCK = 16  # torch draws normals in blocks of eight pairs
_UNIT_24 = np.float32(2**-24)


def randn(seed: int, shape: Sequence[int]) -> np.ndarray:
    """Standard normal float32 array, equal to `torch.randn(shape, generator=torch.Generator().manual_seed(seed))`
    to float32 rounding (ATen `normal_` on CPU: MT19937 and Box–Muller).

    As in torch, `seed` lies in −2⁶³ … 2⁶⁴−1 (else InputError) and only its low 32 bits count.
    """
    seed = operator.index(seed)
    if not -(2**63) <= seed < 2**64:
        raise InputError(f"seed: expected an integer between -2**63 and 2**64 - 1, found {seed}")
    stream = np.random.RandomState(seed & 0xFFFF_FFFF)
    size = math.prod(shape)
    flat = _blocks(stream, size) if size >= _BLOCK else _pairs(stream, size)
    return flat.reshape(tuple(shape))


def _blocks(stream: np.random.RandomState, size: int) -> np.ndarray:
    """Sizes from 16: a tail that fills no block is covered by redrawing the last 16 values."""
    full = size - size % _BLOCK
    flat = np.empty(size, np.float32)
    # torch draws a uniform for every value before it redraws, so those under the tail are drawn too, and dropped.
    uniforms = _uniforms_24(stream, size)
    flat[:full] = _box_muller(uniforms[:full])
    if full < size:
        flat[-_BLOCK:] = _box_muller(_uniforms_24(stream, _BLOCK))
    return flat


def _uniforms_24(stream: np.random.RandomState, size: int) -> np.ndarray:
    """Float32 in [0, 1): the low 24 bits of one draw each."""
    draws = stream.randint(0, 2**32, size, np.uint32)
    return (draws & np.uint32(0xFF_FFFF)).astype(np.float32) * _UNIT_24


def _box_muller(uniforms: np.ndarray) -> np.ndarray:
    """Float32 [16·n]: in each block, value j and value j + 8 make a pair of normals at the same two places."""
    first, second = np.moveaxis(uniforms.reshape(-1, 2, _BLOCK // 2), 1, 0)
    radius = np.sqrt(np.float32(-2) * np.log(np.float32(1) - first))
    angle = np.float32(2 * math.pi) * second
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)


def _pairs(stream: np.random.RandomState, size: int) -> np.ndarray:
    """Sizes below 16: float64 pairs (cosine, then sine) from 53-bit uniforms of two draws each, high word first."""
    words = stream.randint(0, 2**32, ((size + 1) // 2, 2, 2), np.uint32).astype(np.uint64)
    uniforms = ((words[..., 0] << np.uint64(32) | words[..., 1]) & np.uint64(2**53 - 1)).astype(np.float64) * 2**-53
    radius = np.sqrt(-2 * np.log1p(-uniforms[:, 1]))
    angle = 2 * math.pi * uniforms[:, 0]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)[:size].astype(np.float32)
