"""Schedules equal diffusers' and refuse what they cannot honour."""

import inspect
import re

import diffusers
import numpy as np
import pytest
from diffusers import PNDMScheduler

from runtime.samplers.registry import SAMPLERS, judge_scheduler, recurrence
from runtime.samplers.schedules import NoiseSchedule, SchedulerError

# scheduler/scheduler_config.json of Stable Diffusion 1.5 (1.4's has another _diffusers_version)
STABLE_DIFFUSION_1 = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}


def test_reads_stable_diffusion_1():
    schedule = NoiseSchedule.from_config(STABLE_DIFFUSION_1)
    assert schedule.num_train_timesteps == 1000
    assert schedule.prediction_type == "epsilon"
    assert schedule.steps_offset == 1
    assert schedule.timestep_spacing is None
    assert schedule.set_alpha_to_one is False
    assert schedule.clip_sample is False
    assert schedule.skip_prk_steps is True
    assert schedule.class_name == "PNDMScheduler"
    assert hash(schedule) == hash(NoiseSchedule.from_config(STABLE_DIFFUSION_1))


@pytest.mark.parametrize(
    "betas",
    [
        {"beta_schedule": "scaled_linear"},
        {"beta_schedule": "linear"},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 37},
        {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear", "num_train_timesteps": 250},
        {"trained_betas": [0.001, 0.02, 0.003, 0.5], "num_train_timesteps": 4},
    ],
)
def test_alphas_equal_diffusers(betas):
    config = {**STABLE_DIFFUSION_1, **betas}
    theirs = PNDMScheduler.from_config(config).alphas_cumprod.numpy().astype(np.float64)
    ours = np.array(NoiseSchedule.from_config(config).alphas_cumprod)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    np.testing.assert_allclose(1 - ours, 1 - theirs, rtol=1e-6)


def test_absent_keys_take_diffusers_defaults():
    theirs = PNDMScheduler().alphas_cumprod.numpy()
    np.testing.assert_allclose(NoiseSchedule.from_config({}).alphas_cumprod, theirs, rtol=1e-6)


def test_reads_the_config_of_a_live_scheduler():
    """Keys that diffusers filled in count as absent, so that another sampler's own default can hold."""
    live = PNDMScheduler.from_config(STABLE_DIFFUSION_1)
    assert live.config.timestep_spacing == "leading"
    assert NoiseSchedule.from_config(live.config) == NoiseSchedule.from_config(STABLE_DIFFUSION_1)


@pytest.mark.parametrize(
    "option, value",
    [
        ("prediction_type", "flow_prediction"),
        ("timestep_spacing", "quadratic"),
        ("steps_offset", -1),
        ("steps_offset", 0.5),
        ("num_train_timesteps", 0),
        ("beta_schedule", "sigmoid"),
        ("num_train_timesteps", 10**12),
        ("beta_start", "0.1"),
        ("beta_end", -0.1),
        ("trained_betas", [0.1, 0.2]),
        ("trained_betas", [[0.1], "x"]),
    ],
)
def test_refuses_by_name(option, value):
    with pytest.raises(SchedulerError, match=f"{option}: expected .*, found"):
        NoiseSchedule.from_config({**STABLE_DIFFUSION_1, option: value})


@pytest.mark.parametrize("name, sampler", SAMPLERS.items())
def test_a_sampler_refuses_only_options_that_its_class_reads(name, sampler):
    """As diffusers: an option that a class does not read is ignored when one is made from another's config."""
    reads = inspect.signature(getattr(diffusers, sampler.class_name).__init__).parameters
    every = {option for each in SAMPLERS.values() for option in inspect.signature(getattr(diffusers, each.class_name)).parameters}
    options = {option for option in every if option.startswith("use_")} | {"clip_sample", "thresholding", "rescale_betas_zero_snr"}
    for option in options | {"use_flow_sigmas", "use_lu_lambdas", "timestep_values", "original_inference_steps"}:
        schedule = NoiseSchedule.from_config({**STABLE_DIFFUSION_1, option: True})
        if option not in reads:
            recurrence(name, 5, schedule)
            continue
        with pytest.raises(SchedulerError, match=f"{option}: expected False, found True; choose .*: --scheduler "):
            recurrence(name, 5, schedule)


def test_a_model_is_judged_by_what_can_sample_it():
    assert judge_scheduler(STABLE_DIFFUSION_1) is None
    config = {**STABLE_DIFFUSION_1, "_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True}
    assert re.search("own scheduler .* 'DPMSolverMultistepScheduler'.* --scheduler ddim or pndm$", judge_scheduler(config) or "")
    with pytest.raises(SchedulerError, match="prediction_type: expected"):
        judge_scheduler({**config, "prediction_type": "flow_prediction"})
    none = {"clip_sample": True, "skip_prk_steps": False, "use_karras_sigmas": True}
    with pytest.raises(SchedulerError, match="unknown sampler 'DPM.*: expected one of ddim, pndm, lms$"):
        judge_scheduler({**config, **none})


def test_takes_unsupported_options_that_are_off():
    options = {"thresholding": False, "use_karras_sigmas": None, "clip_sample_range": 1.0, "solver_order": 2}
    schedule = NoiseSchedule.from_config({**STABLE_DIFFUSION_1, **options, "_private": 1})
    assert schedule == NoiseSchedule.from_config(STABLE_DIFFUSION_1)


@pytest.mark.parametrize("value", [None, True, -1, 1e400, "text", [], [[]], {}, {"a": 1}, b"", 10**400])
@pytest.mark.parametrize(
    "option", [*STABLE_DIFFUSION_1, "prediction_type", "timestep_spacing", "_use_default_values", "thresholding"]
)
def test_values_of_any_type_are_read_or_refused(option, value):
    try:
        judge_scheduler({**STABLE_DIFFUSION_1, option: value})
    except SchedulerError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("betas", [[0.1, float("nan")], [0.1, 0.0], [0.1, 1.0], [-0.1, 0.2], [0.1, 2.0]])
def test_refuses_betas_that_make_no_schedule(betas):
    with pytest.raises(SchedulerError, match="strictly between 1 and 0"):
        NoiseSchedule.from_config({"trained_betas": betas, "num_train_timesteps": 2})
