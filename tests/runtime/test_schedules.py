"""Schedules equal diffusers' and refuse what they cannot honour."""

import numpy as np
import pytest
from diffusers import DDIMScheduler, PNDMScheduler

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
        ("clip_sample", True),
        ("thresholding", True),
        ("rescale_betas_zero_snr", True),
        ("use_karras_sigmas", True),
        ("use_exponential_sigmas", True),
        ("use_beta_sigmas", True),
        ("use_flow_sigmas", True),
        ("use_dynamic_shifting", True),
        ("use_lu_lambdas", True),
        ("prediction_type", "flow_prediction"),
        ("timestep_spacing", "quadratic"),
        ("steps_offset", -1),
        ("steps_offset", 0.5),
        ("num_train_timesteps", 0),
        ("beta_schedule", "sigmoid"),
        ("trained_betas", [0.1, 0.2]),
    ],
)
def test_refuses_by_name(option, value):
    with pytest.raises(SchedulerError, match=f"{option}: expected .*, found"):
        NoiseSchedule.from_config({**STABLE_DIFFUSION_1, option: value})


def test_refuses_an_option_that_it_does_not_know():
    with pytest.raises(SchedulerError, match="sigma_data, snr_shift_scale"):
        NoiseSchedule.from_config({**STABLE_DIFFUSION_1, "snr_shift_scale": 3.0, "sigma_data": 0.5})


def test_takes_unsupported_options_that_are_off():
    options = {"thresholding": False, "use_karras_sigmas": None, "clip_sample_range": 1.0, "solver_order": 2}
    schedule = NoiseSchedule.from_config({**STABLE_DIFFUSION_1, **options, "_private": 1})
    assert schedule == NoiseSchedule.from_config(STABLE_DIFFUSION_1)


def test_refuses_ddim_that_clips_by_default():
    assert DDIMScheduler().config.clip_sample is True
    with pytest.raises(SchedulerError, match="clip_sample: expected False, found no entry"):
        NoiseSchedule.from_config({"_class_name": "DDIMScheduler"})
    assert NoiseSchedule.from_config({"_class_name": "DDIMScheduler", "clip_sample": False}).clip_sample is False


@pytest.mark.parametrize("betas", [[0.1, float("nan")], [0.1, 0.0], [0.1, 1.0], [-0.1, 0.2], [0.1, 2.0]])
def test_refuses_betas_that_make_no_schedule(betas):
    with pytest.raises(SchedulerError, match="strictly between 1 and 0"):
        NoiseSchedule.from_config({"trained_betas": betas, "num_train_timesteps": 2})
