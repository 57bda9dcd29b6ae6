"""The samplers, one row each: names, diffusers' class names, options, error messages and help texts follow from here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engines.printable import shown
from runtime.samplers.consistency import LCM_OPTIONS, TCD_OPTIONS, lcm, tcd
from runtime.samplers.ddim import DDIM_OPTIONS, ddim
from runtime.samplers.ddpm import DDPM_OPTIONS, ddpm
from runtime.samplers.deis import DEIS_OPTIONS, deis
from runtime.samplers.dpm_multistep import DPM_MULTISTEP_OPTIONS, dpm_multistep
from runtime.samplers.dpm_singlestep import DPM_SINGLESTEP_OPTIONS, dpm_singlestep
from runtime.samplers.euler import EULER_ANCESTRAL_OPTIONS, EULER_OPTIONS, euler, euler_ancestral
from runtime.samplers.lms import LMS_OPTIONS, lms
from runtime.samplers.names import SCHEDULE_TYPES, Chosen, require_linear, schedule_type, spelling, split
from runtime.samplers.options import ETA, Option, SchedulerError
from runtime.samplers.pndm import PNDM_OPTIONS, pndm
from runtime.samplers.recurrence import Recurrence
from runtime.samplers.schedules import NoiseSchedule, SchedulerConfig
from runtime.samplers.second_order import DPM2_OPTIONS, HEUN_OPTIONS, dpm2, dpm2_ancestral, heun
from runtime.samplers.unipc import UNIPC_OPTIONS, unipc


@dataclass(frozen=True)
class Sampler:
    """`solve` takes a step count and a schedule and gives timesteps [R] and matrices [R, S+1, S+2] in float64, and where they are
    not 1 also the scales of the first noise and of the first model input. `options` are all that it reads of a schedule.

    `aliases` are names of the field, with the options that each stands for.
    """

    class_name: str
    solve: Callable[[int, NoiseSchedule], tuple[np.ndarray, np.ndarray] | tuple[np.ndarray, np.ndarray, float, float]]
    options: Mapping[str, Option]
    aliases: Mapping[str, Chosen] = field(default_factory=dict)


def _dpm(algorithm: str, order: int = 2, kind: str = "midpoint") -> Chosen:
    return {"algorithm_type": algorithm, "solver_order": order, "solver_type": kind}


_DPM_2M = {
    "DPM++ 2M": _dpm("dpmsolver++"),
    "DPM++ 2M SDE": _dpm("sde-dpmsolver++"),
    "DPM++ 2M SDE Heun": _dpm("sde-dpmsolver++", kind="heun"),
    "DPM++ 3M SDE": _dpm("sde-dpmsolver++", order=3),
}
SAMPLERS = {
    "ddim": Sampler("DDIMScheduler", ddim, DDIM_OPTIONS),
    "ddpm": Sampler("DDPMScheduler", ddpm, DDPM_OPTIONS),
    "pndm": Sampler("PNDMScheduler", pndm, PNDM_OPTIONS, {"PLMS": {"skip_prk_steps": True}}),
    "lms": Sampler("LMSDiscreteScheduler", lms, LMS_OPTIONS),
    "euler": Sampler("EulerDiscreteScheduler", euler, EULER_OPTIONS),
    "euler_ancestral": Sampler("EulerAncestralDiscreteScheduler", euler_ancestral, EULER_ANCESTRAL_OPTIONS, {"Euler a": {}}),
    "heun": Sampler("HeunDiscreteScheduler", heun, HEUN_OPTIONS),
    "dpm2": Sampler("KDPM2DiscreteScheduler", dpm2, DPM2_OPTIONS, {"DPM 2": {}}),
    "dpm2_ancestral": Sampler(
        "KDPM2AncestralDiscreteScheduler", dpm2_ancestral, DPM2_OPTIONS, {"DPM2 a": {}, "DPM 2 ancestral": {}}
    ),
    "dpm_multistep": Sampler("DPMSolverMultistepScheduler", dpm_multistep, DPM_MULTISTEP_OPTIONS, _DPM_2M),
    "dpm_singlestep": Sampler(
        "DPMSolverSinglestepScheduler", dpm_singlestep, DPM_SINGLESTEP_OPTIONS, {"DPM++ SDE": _dpm("sde-dpmsolver++")}
    ),
    "unipc": Sampler(
        "UniPCMultistepScheduler",
        unipc,
        UNIPC_OPTIONS,
        {"UniPC bh1": {"solver_type": "bh1"}, "UniPC bh2": {"solver_type": "bh2"}, "uni_pc": {}},
    ),
    "deis": Sampler("DEISMultistepScheduler", deis, DEIS_OPTIONS),
    "lcm": Sampler("LCMScheduler", lcm, LCM_OPTIONS),
    "tcd": Sampler("TCDScheduler", tcd, TCD_OPTIONS),
}


def recurrence(
    name: str, num_inference_steps: int, config: SchedulerConfig, *, schedule_type: str | None = None, eta: float = 0.0
) -> Recurrence:
    """Recurrence of a sampler, equal to the diffusers scheduler of that class made from the same config with `from_config`.

    `name` is ours, that of diffusers' class, or an alias, with or without a schedule type at its end; `schedule_type` goes
    before that one; `eta` is the share of fresh noise of DDIM and TCD. Computed in float64.

    Raises SchedulerError for an unknown name, a step count outside 1 … T, timesteps outside 0 … T−1 (where diffusers fails or
    reads the wrong end of its arrays), and options that the sampler does not have or cannot honour.
    """
    ours, chosen = _find(name, schedule_type)
    if eta:
        chosen = _with_eta(ours, chosen, eta)
    schedule = _schedule(ours, config, chosen)
    total = schedule.num_train_timesteps
    if isinstance(num_inference_steps, bool) or not isinstance(num_inference_steps, (int, np.integer)):
        raise SchedulerError(f"num_inference_steps: expected an integer, found {num_inference_steps!r}")
    if not 1 <= num_inference_steps <= total:
        raise SchedulerError(f"num_inference_steps: expected 1 to {total} (training steps), found {num_inference_steps}")
    return _solved(ours, int(num_inference_steps), schedule)


def sampler_key(name: str) -> str:
    """The key in SAMPLERS that a sampler's name stands for. Raises SchedulerError for an unknown one."""
    return _find(name, None)[0]


def judge_scheduler(config: Mapping[str, Any]) -> str | None:
    """Whether the scheduler that a model comes with can be honoured: None, or why not and which samplers can be chosen.

    Raises SchedulerError where none can.
    """
    read = SchedulerConfig.read(config)
    try:
        ours, chosen = _find(read.class_name, None)
        _schedule(ours, read, chosen)
    except SchedulerError as error:
        if not (able := _able(read)):
            raise
        advice = "" if "--scheduler" in str(error) else _advice(able)
        return f"the model's own scheduler cannot be used: {error}{advice}"
    return None


def _find(name: str, chosen_type: str | None) -> tuple[str, Chosen]:
    """A sampler's key in SAMPLERS, and the options that its name stands for."""
    require_linear(name)
    sampler, ending = split(name)
    for key, row in SAMPLERS.items():
        for known, chosen in ((key, {}), (row.class_name, {}), *row.aliases.items()):
            if spelling(known) == sampler:
                return key, {**chosen, **_typed(key, ending if chosen_type is None else chosen_type)}
    raise SchedulerError(
        f"unknown sampler {shown(name)}: expected one of {', '.join(SAMPLERS)}; saferedir samplers lists all names"
    )


def _typed(key: str, name: str) -> Chosen:
    """Options of a schedule type that a sampler has."""
    wanted, options = schedule_type(name), SAMPLERS[key].options
    if missing := [option for option, value in wanted.items() if value and option not in options]:
        raise SchedulerError(
            f"schedule_type {name} with {key}: expected one that this sampler has "
            f"({', '.join(schedule_types(key))}), found no option {missing[0]} of it"
        )
    return {option: value for option, value in wanted.items() if option in options}


def schedule_types(key: str) -> list[str]:
    """Those that a sampler has."""
    options = SAMPLERS[key].options
    return [name for name, wanted in SCHEDULE_TYPES.items() if all(option in options for option, value in wanted.items() if value)]


def _with_eta(key: str, chosen: Chosen, eta: float) -> Chosen:
    if ETA not in SAMPLERS[key].options:
        having = ", ".join(name for name, row in SAMPLERS.items() if ETA in row.options)
        raise SchedulerError(f"eta: expected 0 with {key}, found {eta}; samplers that have one: {having}")
    return {**chosen, ETA: eta}


def _schedule(key: str, config: SchedulerConfig, chosen: Chosen) -> NoiseSchedule:
    """What a sampler reads. Raises SchedulerError, which names samplers that honour the config."""
    try:
        return config.schedule(SAMPLERS[key].options, chosen)
    except SchedulerError as error:
        if not (able := _able(config)):
            raise
        raise SchedulerError(f"{error}{_advice(able)}") from None


def _advice(able: list[str]) -> str:
    return f"; choose one that works with this model: --scheduler {' or '.join(able)}"


def _able(config: SchedulerConfig) -> list[str]:
    """Keys of the samplers that honour a config."""
    able = []
    for key, row in SAMPLERS.items():
        try:
            config.schedule(row.options)
        except SchedulerError:
            continue
        able.append(key)
    return able


def _solved(key: str, steps: int, schedule: NoiseSchedule) -> Recurrence:
    """What a sampler's `solve` gives, if it is finite."""
    try:
        with np.errstate(all="ignore"):
            timesteps, matrices, *scales = SAMPLERS[key].solve(steps, schedule)
    except (ZeroDivisionError, OverflowError, np.linalg.LinAlgError):
        timesteps, matrices, scales = np.array([np.nan]), np.array([np.nan]), []
    init_noise_sigma, input_scale = scales or (1.0, 1.0)
    if not all(np.isfinite(each).all() for each in (timesteps, matrices, init_noise_sigma, input_scale)):
        raise SchedulerError(
            f"num_inference_steps {steps} with these options of {SAMPLERS[key].class_name}: expected finite weights, found a "
            "division by zero, as where two steps have the same noise level; choose another step count or schedule type"
        )
    return Recurrence(key, timesteps, matrices, init_noise_sigma, input_scale, schedule.options)
