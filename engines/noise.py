"""The noise of a seed: torch's CPU normal stream, without torch. The same seed gives the same picture."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import numpy as np

from engines.errors import InputError
from engines.printable import shown

_BLOCK = 16  # torch draws normals in blocks of eight pairs
_UNIT_24 = np.float32(2**-24)


class NormalStream:
    """One image's standard normal noise: draw after draw equal to `torch.randn(shape, generator=generator)` with one
    `torch.Generator().manual_seed(seed)`, to float32 rounding (ATen `normal_` on CPU: MT19937 and Box–Muller).

    As in torch, `seed` lies in −2⁶³ … 2⁶⁴−1 (else InputError) and only its low 32 bits count.
    """

    def __init__(self, seed: int) -> None:
        seed = operator.index(seed)
        check_seed(seed)
        self._words = np.random.RandomState(seed & 0xFFFF_FFFF)
        self._spare = np.empty(0, np.float32)  # second normal of a pair, which the next draw of a size below 16 begins with

    def draw(self, shape: Sequence[int]) -> np.ndarray:
        """The stream's next values as float32 array of `shape`."""
        size = math.prod(shape)
        flat = _blocks(self._words, size) if size >= _BLOCK else self._below_a_block(size)
        return flat.reshape(tuple(shape))

    def _below_a_block(self, size: int) -> np.ndarray:
        missing = max(size - len(self._spare), 0)
        values = np.concatenate([self._spare, _pairs(self._words, (missing + 1) // 2)])
        self._spare = values[size:]
        return values[:size]


def check_seed(seed: int) -> None:
    """Raise InputError for a seed that torch would not take."""
    if not -(2**63) <= seed < 2**64:
        raise InputError(f"seed: expected an integer between -2**63 and 2**64 - 1, found {shown(seed)}")


def _blocks(words: np.random.RandomState, size: int) -> np.ndarray:
    """Sizes from 16: a tail that fills no block is covered by redrawing the last 16 values."""
    full = size - size % _BLOCK
    flat = np.empty(size, np.float32)
    # torch draws a uniform for every value before it redraws, so those under the tail are drawn too, and dropped.
    uniforms = _uniforms_24(words, size)
    flat[:full] = _box_muller(uniforms[:full])
    if full < size:
        flat[-_BLOCK:] = _box_muller(_uniforms_24(words, _BLOCK))
    return flat


def _uniforms_24(words: np.random.RandomState, size: int) -> np.ndarray:
    """Float32 in [0, 1): the low 24 bits of one draw each."""
    draws = words.randint(0, 2**32, size, np.uint32)
    uniforms: np.ndarray = (draws & np.uint32(0xFF_FFFF)).astype(np.float32) * _UNIT_24
    return uniforms


def _box_muller(uniforms: np.ndarray) -> np.ndarray:
    """Float32 [16·n]: in each block, value j and value j + 8 make a pair of normals at the same two places."""
    first, second = np.moveaxis(uniforms.reshape(-1, 2, _BLOCK // 2), 1, 0)
    radius = np.sqrt(np.float32(-2) * np.log(np.float32(1) - first))
    angle = np.float32(2 * math.pi) * second
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)


def _pairs(words: np.random.RandomState, pairs: int) -> np.ndarray:
    """Float32 [2·pairs]: pairs (cosine, then sine) in float64 from 53-bit uniforms of two words each, high word first."""
    halves = words.randint(0, 2**32, (pairs, 2, 2), np.uint32).astype(np.uint64)
    uniforms = ((halves[..., 0] << np.uint64(32) | halves[..., 1]) & np.uint64(2**53 - 1)).astype(np.float64) * 2**-53
    radius = np.sqrt(-2 * np.log1p(-uniforms[:, 1]))
    angle = 2 * math.pi * uniforms[:, 0]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1).astype(np.float32)
