"""Every sampler with every option of its class, at every step count: thousands of cases of `tests.runtime.parity`.

`python -m tests.runtime.parity_matrix` runs all and prints the result by sampler; docs/samplers.md has it.
"""

from __future__ import annotations

import logging
import random
import re
from collections import Counter
from typing import Any

import torch

from runtime.samplers.options import ETA
from runtime.samplers.registry import SAMPLERS
from tests.runtime.parity import Case, Outcome, outcome

_SPACED = {"timestep_spacing": ("leading", "trailing", "linspace"), "steps_offset": (0, 1, 3)}
_RESPACED = {"use_karras_sigmas": (True,), "use_exponential_sigmas": (True,), "use_beta_sigmas": (True,)}
_BETAS = {"beta_schedule": ("linear", "squaredcos_cap_v2"), "num_train_timesteps": (250,)}
_SNR = {"rescale_betas_zero_snr": (True,)}
_FINAL = {"final_sigmas_type": ("zero", "sigma_min")}
_SIGMAS = {"sigma_min": (0.1,), "sigma_max": (10.0,)}
_ALPHA = {"set_alpha_to_one": (True, False)}
_V = {"prediction_type": ("epsilon", "v_prediction")}
_ALL = {"prediction_type": ("epsilon", "v_prediction", "sample")}
_ORDERS = {"solver_order": (1, 2, 3), "lower_order_final": (True, False)}
_DPM = {
    **_ALL,
    **_RESPACED,
    **_SIGMAS,
    **_FINAL,
    **_ORDERS,
    **_BETAS,
    "solver_type": ("midpoint", "heun", "bh1"),
    "lambda_min_clipped": (-2.0,),
}
AXES: dict[str, dict[str, tuple[Any, ...]]] = {
    "ddim": {**_ALL, **_SPACED, **_ALPHA, **_SNR, **_BETAS},
    "ddpm": {**_ALL, **_SPACED, **_SNR, **_BETAS, "variance_type": ("fixed_small", "fixed_small_log", "fixed_large")},
    "pndm": {**_V, **_SPACED, **_ALPHA, **_BETAS},
    "lms": {**_ALL, **_SPACED, **_RESPACED, **_BETAS},
    "euler": {
        **_ALL,
        **_SPACED,
        **_RESPACED,
        **_SIGMAS,
        **_SNR,
        **_FINAL,
        **_BETAS,
        "interpolation_type": ("linear", "log_linear"),
        "timestep_type": ("discrete", "continuous"),
    },
    "euler_ancestral": {**_V, **_SPACED, **_SNR, **_BETAS},
    "heun": {**_ALL, **_SPACED, **_RESPACED, **_SIGMAS, **_BETAS},
    "dpm2": {**_V, **_SPACED, **_RESPACED, **_SIGMAS, **_BETAS},
    "dpm2_ancestral": {**_V, **_SPACED, **_RESPACED, **_SIGMAS, **_BETAS},
    "dpm_multistep": {
        **_DPM,
        **_SPACED,
        **_SNR,
        "algorithm_type": ("dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver", "deis"),
        "use_lu_lambdas": (True,),
        "euler_at_final": (True,),
    },
    "dpm_singlestep": {**_DPM, "algorithm_type": ("dpmsolver++", "dpmsolver", "sde-dpmsolver++")},
    "unipc": {
        **_ALL,
        **_SPACED,
        **_RESPACED,
        **_SIGMAS,
        **_SNR,
        **_FINAL,
        **_ORDERS,
        **_BETAS,
        "solver_type": ("bh1", "bh2", "midpoint"),
        "predict_x0": (True, False),
        "disable_corrector": ((0,), (1, 2)),
    },
    "deis": {**_ALL, **_SPACED, **_RESPACED, **_SIGMAS, **_ORDERS, **_BETAS},
    "lcm": {**_ALL, **_SNR, **_BETAS, "original_inference_steps": (100, 250), "timestep_scaling": (1.0,)},
    "tcd": {**_ALL, **_SNR, **_BETAS, "original_inference_steps": (100, 250)},
}
STEPS = (*range(1, 101), 250)
_FEW = (1, 2, 3, 5, 14, 15, 31)
_RANDOM = 80  # combinations of each sampler


def matrix() -> list[Case]:
    """Every sampler: every step count; every value of every option, alone; and random combinations of options. Seeded."""
    draw, cases = random.Random(0), []
    for name, axes in AXES.items():
        etas = (0.0, 0.3, 1.0) if ETA in SAMPLERS[name].options else (0.0,)
        # diffusers integrates numerically for LMS, about 9 ms a row.
        cases += [Case(name, steps) for steps in (STEPS if name != "lms" else (*range(1, 31), 50, 100))]
        cases += [Case(name, steps, eta=eta) for eta in etas[1:] for steps in _FEW]
        cases += [Case(name, n, ((option, value),)) for option, values in axes.items() for value in values for n in _FEW]
        for _ in range(_RANDOM):
            chosen = [option for option in axes if option not in _RESPACED and draw.random() < 0.5]
            chosen += (
                [draw.choice(respaced)]
                if (respaced := [each for each in _RESPACED if each in axes]) and draw.random() < 0.6
                else []
            )
            options = tuple((option, draw.choice(axes[option])) for option in sorted(chosen))
            cases.append(Case(name, draw.choice(STEPS if name != "lms" else STEPS[:30]), options, draw.choice(etas)))
    return list(dict.fromkeys(cases))


def main() -> None:
    """Run the whole matrix, and print a line for each sampler and what is not equal."""
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    results: dict[Case, Outcome] = {}
    for name in AXES:
        of_name = {case: outcome(case) for case in matrix() if case.name == name}
        counts = Counter(result.kind for result in of_name.values())
        largest = max(result.error for result in of_name.values() if result.kind == "equal")
        print(f"{name:<16} {len(of_name):5} cases, largest error {largest:.1e}", dict(counts), flush=True)
        results |= of_name
    reasons = Counter(
        (case.name, result.kind, re.sub(r"[0-9.]+", "#", result.reason))
        for case, result in results.items()
        if result.kind != "equal"
    )
    for reason, count in sorted(reasons.items()):
        print(count, *reason)
    for case, result in results.items():
        if result.kind in ("rounding", "unequal"):
            print(case, result)


if __name__ == "__main__":
    main()
