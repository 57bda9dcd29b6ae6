"""UniPC: a multistep predictor, whose sample the next step's model call corrects."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from runtime.samplers.options import (
    FINAL_SIGMA,
    LOWER_ORDER_FINAL,
    NOT_FLOW,
    NOT_THRESHOLDED,
    RESPACINGS,
    SIGMA_RANGE,
    ZERO_SNR,
    Option,
    SchedulerError,
    absent,
    integer,
    one_of,
    spacing,
    switch,
    training,
)
from runtime.samplers.prediction import clean, noise
from runtime.samplers.schedules import NoiseSchedule
from runtime.samplers.sigmas import NoiseLevels, levels_of_exponentials


def _steps(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(each, int) and not isinstance(each, bool) for each in value):
        raise SchedulerError.for_option(name, "a list of step numbers", value)
    return tuple(value)


UNIPC_OPTIONS = {
    **training(),
    **spacing("linspace"),
    **RESPACINGS,
    **SIGMA_RANGE,
    "solver_order": Option(2, integer(1, 3)),
    "solver_type": Option("bh2", one_of("bh1", "bh2", read_as=dict.fromkeys(("midpoint", "heun", "logrho"), "bh2"))),
    "predict_x0": Option(True, switch),
    **LOWER_ORDER_FINAL,
    "disable_corrector": Option((), _steps),
    "solver_p": Option(None, absent),
    **FINAL_SIGMA,
    **ZERO_SNR,
    **NOT_THRESHOLDED,
    **NOT_FLOW,
}


def unipc(steps: int, schedule: NoiseSchedule) -> tuple[np.ndarray, np.ndarray]:
    """Zhao et al. 2023, Algorithms 5 to 8 (diffusers UniPCMultistepScheduler).

    A step corrects x by what the model says of it, then predicts from the corrected x. State: x as predicted, the last
    corrected x, and what the model said at the last `solver_order` steps, newest first.
    """
    levels = levels_of_exponentials(steps, schedule, last_repeats=True)
    rows, most = len(levels.timesteps), schedule["solver_order"]
    x, last, *past, output, _ = np.eye(most + 4)
    matrices = []
    order = 0
    for i in range(rows):
        alpha = levels.alphas[i]
        kept = clean if schedule["predict_x0"] else noise
        now = kept(schedule.prediction_type, alpha, alpha * levels.sigmas[i], x, output)
        corrected = x
        if i > 0 and i - 1 not in schedule["disable_corrector"]:
            corrected = _step(schedule, levels, i - 1, order, last, past, now)
        order = min(most, i + 1, rows - i if schedule["lower_order_final"] else most)
        following = _step(schedule, levels, i, order, corrected, [now, *past])
        matrices.append([following, corrected, now, *past[:-1], following])
    return levels.timesteps, np.array(matrices)


def _step(
    schedule: NoiseSchedule,
    levels: NoiseLevels,
    i: int,
    order: int,
    x: np.ndarray,
    said: list[np.ndarray],
    there: np.ndarray | None = None,
) -> np.ndarray:
    """Weights of the sample at level i + 1, from x at level i: predicted from what the model `said` at i and before, or, with
    what it says `there`, corrected.
    """
    start, end = levels.sigmas[i : i + 2]
    alpha_s, alpha_t = levels.alphas[i : i + 2]
    h = math.log(start / end) if end else math.inf
    if schedule["predict_x0"]:
        z, gain, sample = -h, alpha_t, alpha_t * end / (alpha_s * start)
        constant = -alpha_t * math.expm1(-h)
    else:
        z, gain, sample = h, alpha_t * end, alpha_t / alpha_s
        constant = -alpha_t * (start - end)
    following = sample * x + constant * said[0]
    ratios = np.log(start / levels.sigmas[i - np.arange(1, order)]) / h
    leaps = [(each - said[0]) / ratio for each, ratio in zip(said[1:], ratios, strict=False)]
    if there is not None:
        leaps.append(there - said[0])
    if not leaps:
        return np.asarray(following)
    scale = z if schedule["solver_type"] == "bh1" else math.expm1(z)
    weights = _weights(np.append(ratios, 1.0), z, scale, predicts=there is None)
    return np.asarray(following - gain * scale * (weights @ leaps))


def _weights(ratios: np.ndarray, z: float, scale: float, predicts: bool) -> np.ndarray:
    """ρ of the divided differences: R·ρ = b with R_jk = r_k^j and b_j = j!·φ_{j+1}(z)/B(z), j = 0 …; the predictor leaves the last
    difference and equation out. A single ρ is 1/2, as in the paper.
    """
    count = len(ratios) - predicts
    if count == 1:
        return np.array([0.5])
    series, value, factor = [], math.expm1(z) / z - 1, 1
    for j in range(len(ratios)):
        series.append(value * factor / scale)
        factor *= j + 2
        value = value / z - 1 / factor
    matrix = np.vander(ratios, increasing=True).T
    return np.linalg.solve(matrix[:count, :count], np.array(series)[:count])
