"""A sampler is a linear recurrence, in numpy. Knows nothing of solvers, networks or guidance.

Row i takes the state [S, …], the (guided) model output m and standard normal noise ξ, and gives

    [state'; next model input] = M_i · [state; m; ξ]        M_i is (S + 1) × (S + 2)

Slot 0 of the state is the sampler's own sample: what the guard reads and the decoder gets. The other slots start at
0 and keep what the solver needs of the past: samples, model outputs, derivatives. A weight of 0 leaves a slot out only while
the slot is finite, for 0·NaN is NaN. A slot that is not finite comes from a sample or an output that was not, and that run has
failed already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Recurrence:
    """All that the loop needs to know of a sampler. Arrays are kept as float32 and read-only.

    timesteps         [R], given to UNet and guard; R can exceed the number of steps asked for (PNDM: one more)
    matrices          [R, S+1, S+2]
    init_noise_sigma  x_0 = init_noise_sigma · standard normal noise, in slot 0
    input_scale       first model input = input_scale · x_0
    options           of the sampler, by their names in diffusers' configs
    """

    name: str
    timesteps: np.ndarray
    matrices: np.ndarray
    init_noise_sigma: float = 1.0
    input_scale: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "timesteps", _read_only(self.timesteps))
        object.__setattr__(self, "matrices", _read_only(self.matrices))

    @property
    def rows(self) -> int:
        return len(self.timesteps)

    @property
    def slots(self) -> int:
        """S, the arrays of the state."""
        return int(self.matrices.shape[1]) - 1

    @property
    def noisy(self) -> np.ndarray:
        """Bool [R]: the rows that take noise."""
        return np.asarray(self.matrices[:, :, -1].any(axis=1))

    def padded(self, rows: int, slots: int) -> np.ndarray:
        """Matrices float32 [rows, slots+1, slots+2], of at least our own rows and slots.

        Further slots stay 0. Further rows keep the state and give the sample as model input.
        """
        places = np.arange(self.slots)
        matrices = np.zeros((rows, slots + 1, slots + 2), np.float32)
        matrices[np.ix_(range(self.rows), [*places, slots], [*places, slots, slots + 1])] = self.matrices
        matrices[self.rows :, places, places] = 1
        matrices[self.rows :, slots, 0] = 1
        return matrices


@dataclass(frozen=True, eq=False)
class Batch:
    """The recurrences of B independent images, which may differ in sampler and step count. Arrays are read-only.

    timesteps                      float32 [R, B], R the largest row count
    matrices                       float32 [R, B, S+1, S+2], S the largest slot count
    init_noise_sigma, input_scale  float32 [B]
    rows                           int64 [B], each image's own count; later rows keep its state, at its last timestep
    """

    timesteps: np.ndarray
    matrices: np.ndarray
    init_noise_sigma: np.ndarray
    input_scale: np.ndarray
    rows: np.ndarray

    @property
    def slots(self) -> int:
        return int(self.matrices.shape[2]) - 1

    @property
    def noisy(self) -> np.ndarray:
        """Bool [R]: the rows in which at least one image takes noise; each recurrence's `noisy` tells which."""
        return np.asarray(self.matrices[..., -1].any(axis=(1, 2)))

    @classmethod
    def of(cls, recurrences: Sequence[Recurrence]) -> Batch:
        """One image for each recurrence; at least one."""
        rows = np.array([each.rows for each in recurrences])
        slots = max(each.slots for each in recurrences)
        timesteps = [np.pad(each.timesteps, (0, rows.max() - each.rows), mode="edge") for each in recurrences]
        matrices = [each.padded(rows.max(), slots) for each in recurrences]
        return cls(
            timesteps=_read_only(np.stack(timesteps, axis=1)),
            matrices=_read_only(np.stack(matrices, axis=1)),
            init_noise_sigma=_read_only(np.array([each.init_noise_sigma for each in recurrences])),
            input_scale=_read_only(np.array([each.input_scale for each in recurrences])),
            rows=_read_only(rows, np.int64),
        )


def apply_row(matrix: np.ndarray, state: np.ndarray, model_output: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reference for the sampler_step network: one row's `matrix` [S+1, S+2] applied to images that share it.

    `state` is [S, B, 4, H, W]; `model_output` (after guidance) and `noise` are [B, 4, H, W]. Float32 or float64, as given.
    Returns next state and next model input.
    """
    product = np.tensordot(matrix, np.concatenate([state, model_output[None], noise[None]]), 1)
    return product[:-1], product[-1]


def _read_only(array: np.ndarray, dtype: type[np.generic] = np.float32) -> np.ndarray:
    array = array.astype(dtype)
    array.setflags(write=False)
    return array
