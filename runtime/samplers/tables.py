"""A sampler is a table: DDIM, PNDM and LMS as rows of coefficients, in numpy.

Knows nothing of networks or guidance. A row i takes the sample x_i and the (guided) model output m_i and gives

    ε_i     = p·x_i + q·m_i                             what the history keeps
    x_{i+1} = Σ_j a_j·x_{i−j} + Σ_k b_k·ε_{i−k} + s·ξ   ξ standard normal noise
    next model input = c_next · x_{i+1}
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from runtime.samplers.schedules import NoiseSchedule, SchedulerError

LMS_ORDER = 4
_P, _Q, _S, _C_NEXT, _A = range(5)  # columns; a_0 is the last of these
_B = _A + 2  # column of b_0: all of our samplers have J = 2


@dataclass(frozen=True, eq=False)
class SamplerTable:
    """Everything that the loop needs to know of a sampler. Arrays are float32 and read-only.

    timesteps         [R], given to UNet and guard; R can exceed the number of steps asked for (PNDM: one more)
    coefficients      [R, 4 + J + K]: p, q, s, c_next, a_0 … a_{J−1}, b_0 … b_{K−1}
    init_noise_sigma  x_0 = init_noise_sigma · standard normal noise
    input_scale       first model input = input_scale · x_0
    history_x         J − 1, past samples kept; at least 1
    """

    name: str
    timesteps: np.ndarray
    coefficients: np.ndarray
    init_noise_sigma: float = 1.0
    input_scale: float = 1.0
    history_x: int = 1

    @property
    def rows(self) -> int:
        return len(self.timesteps)

    @property
    def history_eps(self) -> int:
        """K − 1, past ε kept; at least 1."""
        return self.coefficients.shape[1] - _A - self.history_x - 2


def sampler_table(name: str, num_inference_steps: int, schedule: NoiseSchedule) -> SamplerTable:
    """Table of sampler `name` ("ddim", "pndm", "lms" or a diffusers class name), equal to the diffusers scheduler
    of that name made from the same config with `from_config`. Computed in float64.

    Raises SchedulerError for an unknown name, a step count outside 1 … T, timesteps outside 0 … T−1 (where diffusers
    fails or reads the wrong end of its arrays), and options of the schedule that the sampler does not have.
    """
    short_name = _CLASS_NAMES.get(name, name)
    if short_name not in _BUILDERS:
        raise SchedulerError(f"unknown sampler {name!r}: expected one of {', '.join(SAMPLERS)}")
    total = schedule.num_train_timesteps
    if isinstance(num_inference_steps, bool) or not isinstance(num_inference_steps, (int, np.integer)):
        raise SchedulerError(f"num_inference_steps: expected an integer, found {num_inference_steps!r}")
    if not 1 <= num_inference_steps <= total:
        raise SchedulerError(f"num_inference_steps: expected 1 to {total} (training steps), found {num_inference_steps}")
    return _BUILDERS[short_name](int(num_inference_steps), schedule)


def apply_row(
    row: np.ndarray,
    sample: np.ndarray,
    model_output: np.ndarray,
    noise: np.ndarray,
    history_x: np.ndarray,
    history_eps: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Reference for the sampler_step network: apply one row [4 + J + K] of a table's coefficients.

    `sample`, `model_output` (after guidance) and `noise` are [B, 4, H, W]; histories are [J − 1, B, 4, H, W] and
    [K − 1, B, 4, H, W], newest first, zeros at the start. Float32 or float64, as given.
    Returns next sample, next history_x, next history_eps, next model input.
    """
    p, q, s, c_next = row[:_A]
    a, b = np.split(row[_A:], [len(history_x) + 1])
    samples = np.concatenate([sample[None], history_x])
    predictions = np.concatenate([(p * sample + q * model_output)[None], history_eps])
    next_sample = np.tensordot(a, samples, 1) + np.tensordot(b, predictions, 1) + s * noise
    return next_sample, samples[:-1], predictions[:-1], c_next * next_sample


def _ddim(steps: int, schedule: NoiseSchedule) -> SamplerTable:
    """Song et al. 2021, Eq. 12 with η = 0 (diffusers DDIMScheduler).

    x_0 and ε are linear in x and the model output, so both coefficients fold into a_0 and b_0. Going through ε would
    divide by √ᾱ, which loses digits where ᾱ is tiny and the model predicts v or x_0.
    """
    if schedule.clip_sample is not False:
        raise SchedulerError(
            "scheduler option clip_sample: expected False, found no entry, which DDIM takes as True; "
            'write "clip_sample": false if the model was not trained with clipping'
        )
    timesteps = schedule.timesteps(steps, schedule.timestep_spacing or "leading")
    alpha = np.array(schedule.alphas_cumprod)[timesteps]
    alpha_prev = schedule.alphas_before(timesteps - schedule.num_train_timesteps // steps, one_by_default=True)
    root_alpha, root_beta = np.sqrt(alpha), np.sqrt(1 - alpha)
    if schedule.prediction_type == "epsilon":
        clean, noisy = (1 / root_alpha, -root_beta / root_alpha), (0.0, 1.0)
    elif schedule.prediction_type == "v_prediction":
        clean, noisy = (root_alpha, -root_beta), (root_beta, root_alpha)
    else:
        clean, noisy = (0.0, 1.0), (1 / root_beta, -root_alpha / root_beta)

    table = _blank_table(steps, history_eps=1)
    for column, x0, eps in zip((_A, _B), clean, noisy, strict=True):
        table[:, column] = np.sqrt(alpha_prev) * x0 + np.sqrt(1 - alpha_prev) * eps
    return SamplerTable("ddim", _read_only(timesteps), _read_only(table))


def _pndm(steps: int, schedule: NoiseSchedule) -> SamplerTable:
    """Liu et al. 2022, Eq. 9 with linear multistep weights only (diffusers PNDMScheduler, skip_prk_steps).

    Row 1 repeats row 0's step from x_0 with the mean of two outputs, so the second timestep comes twice.
    """
    if not schedule.skip_prk_steps:
        raise SchedulerError.for_option("skip_prk_steps", "True (PNDM without Runge–Kutta steps)", schedule.skip_prk_steps)
    if schedule.prediction_type == "sample":
        raise SchedulerError.for_option("prediction_type", "epsilon or v_prediction with PNDM", "sample")
    ladder = schedule.timesteps(steps, schedule.timestep_spacing or "leading")
    timesteps = np.concatenate([ladder[:2], ladder[1:]])
    stride = schedule.num_train_timesteps // steps
    start, end = timesteps.copy(), timesteps - stride
    start[1:2], end[1:2] = timesteps[1:2] + stride, timesteps[1:2]

    alpha = np.array(schedule.alphas_cumprod)[start]
    alpha_prev = schedule.alphas_before(end, one_by_default=False)
    x_weight = np.sqrt(alpha_prev / alpha)
    root = np.sqrt(alpha * (1 - alpha) * alpha_prev)
    eps_weight = (alpha - alpha_prev) / (alpha * np.sqrt(1 - alpha_prev) + root)
    output_weight = eps_weight
    if schedule.prediction_type == "v_prediction":
        # diffusers keeps raw outputs and converts their mean with this row's x and ᾱ: fold that into a and b.
        x_weight, output_weight = x_weight + eps_weight * np.sqrt(1 - alpha), eps_weight * np.sqrt(alpha)

    table = _blank_table(len(timesteps), history_eps=4)
    table[:, _A] = x_weight
    table[1:2, [_A, _A + 1]] = table[1:2, [_A + 1, _A]]  # row 1 starts from x_0 again
    table[:, _B:] = output_weight[:, None] * _plms_weights(len(timesteps))
    return SamplerTable("pndm", _read_only(timesteps), _read_only(table))


def _plms_weights(rows: int) -> np.ndarray:
    """[rows, 5] weights of m_i, m_{i−1} … m_{i−4}. Row 1's output serves row 1 only; later rows skip over it."""
    ramp = [
        [1, 0, 0, 0, 0],
        [1 / 2, 1 / 2, 0, 0, 0],
        [3 / 2, 0, -1 / 2, 0, 0],
        [23 / 12, -16 / 12, 0, 5 / 12, 0],
        [55 / 24, -59 / 24, 37 / 24, 0, -9 / 24],
    ]
    steady = [55 / 24, -59 / 24, 37 / 24, -9 / 24, 0]
    return np.array(ramp + [steady] * (rows - len(ramp)))[:rows]


def _lms(steps: int, schedule: NoiseSchedule) -> SamplerTable:
    """Linear multistep of order 4 in σ = √((1 − ᾱ)/ᾱ) (Katherine Crowson's k-diffusion; diffusers LMSDiscreteScheduler).

    The history keeps dx/dσ. Timesteps are fractional with linspace spacing, and their σ are interpolated.
    """
    total, spacing = schedule.num_train_timesteps, schedule.timestep_spacing or "linspace"
    if spacing == "linspace":
        timesteps = np.linspace(0, total - 1, steps, dtype=np.float32)[::-1]
    else:
        timesteps = schedule.timesteps(steps, spacing)
    alpha = np.array(schedule.alphas_cumprod)
    # diffusers holds σ in float32: close timesteps have close σ, and the rounding shows in their differences.
    all_sigmas = np.sqrt((1 - alpha) / alpha).astype(np.float32)
    sigmas = np.append(np.interp(timesteps, np.arange(total), all_sigmas), 0.0).astype(np.float32).astype(np.float64)
    scale = 1 / np.sqrt(sigmas**2 + 1)

    table = _blank_table(steps, history_eps=LMS_ORDER - 1)
    if schedule.prediction_type == "v_prediction":
        table[:, _P], table[:, _Q] = (sigmas * scale**2)[:-1], scale[:-1]
    elif schedule.prediction_type == "sample":
        table[:, _P], table[:, _Q] = 1 / sigmas[:-1], -1 / sigmas[:-1]
    table[:, _C_NEXT] = scale[1:]
    table[:, _A] = 1
    for i in range(steps):
        order = min(i + 1, LMS_ORDER)
        table[i, _B : _B + order] = _lagrange_integrals(sigmas[i::-1][:order], sigmas[i], sigmas[i + 1])
    peak = float(sigmas.max())
    init_noise_sigma = (peak**2 + 1) ** 0.5 if spacing == "leading" else peak
    return SamplerTable("lms", _read_only(timesteps), _read_only(table), init_noise_sigma, float(scale[0]))


def _lagrange_integrals(nodes: np.ndarray, start: float, end: float) -> np.ndarray:
    """∫ from start to end of the Lagrange basis polynomials over `nodes` [n ≤ 4]. Two Gauss points are exact to degree 3."""
    middle, half = (start + end) / 2, (end - start) / 2
    points = middle + half * np.array([-1, 1]) / np.sqrt(3)
    others = [np.delete(nodes, k) for k in range(len(nodes))]
    basis = [np.prod((points[:, None] - o) / (node - o), axis=1) for node, o in zip(nodes, others, strict=True)]
    return half * np.sum(basis, axis=1)


def _blank_table(rows: int, history_eps: int) -> np.ndarray:
    """Zeros, but for q = 1 and c_next = 1: the history keeps the model output, the model sees the sample unscaled."""
    table = np.zeros((rows, _B + history_eps + 1))
    table[:, [_Q, _C_NEXT]] = 1
    return table


def _read_only(array: np.ndarray) -> np.ndarray:
    array = array.astype(np.float32)
    array.setflags(write=False)
    return array


_BUILDERS: dict[str, Callable[[int, NoiseSchedule], SamplerTable]] = {"ddim": _ddim, "pndm": _pndm, "lms": _lms}
_CLASS_NAMES = {"DDIMScheduler": "ddim", "PNDMScheduler": "pndm", "LMSDiscreteScheduler": "lms"}
SAMPLERS = tuple(_BUILDERS)
