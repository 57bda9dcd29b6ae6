"""Schedules equal diffusers' and refuse what they cannot honour."""

import inspect
import re

import diffusers
import numpy as np
import pytest
from diffusers import PNDMScheduler

from runtime.samplers.options import NOT_IN_CONFIGS, SchedulerError
from runtime.samplers.registry import SAMPLERS, judge_scheduler, recurrence
from runtime.samplers.schedules import NoiseSchedule, SchedulerConfig
from runtime.samplers.sigmas import _beta_quantiles
from tests.runtime.parity import STABLE_DIFFUSION_1


def ddim_schedule(config: dict) -> NoiseSchedule:
    return SchedulerConfig.read(config).schedule(SAMPLERS["ddim"].options)


def test_reads_stable_diffusion_1():
    assert SchedulerConfig.read(STABLE_DIFFUSION_1).class_name == "PNDMScheduler"
    schedule = ddim_schedule(STABLE_DIFFUSION_1)
    assert schedule.num_train_timesteps == 1000
    assert schedule.prediction_type == "epsilon"
    assert schedule["steps_offset"] == 1
    assert schedule["timestep_spacing"] == "leading"  # the class's default
    assert schedule["set_alpha_to_one"] is False
    assert schedule["clip_sample"] is False


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
    ours = ddim_schedule(config).alphas_cumprod
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler"])
def test_zero_snr_equals_diffusers(name):
    """Up to the last bit of torch's square root, which the end of the schedule magnifies."""
    config = {**STABLE_DIFFUSION_1, "rescale_betas_zero_snr": True}
    theirs = getattr(diffusers, name).from_config(config).alphas_cumprod.numpy().astype(np.float64)
    ours = ddim_schedule(config).alphas_cumprod
    np.testing.assert_allclose(ours[:-1], theirs[:-1], rtol=1e-5)
    assert ours[-1] == 0 and theirs[-1] == (0 if name == "DDIMScheduler" else 2**-24)


def test_absent_keys_take_diffusers_defaults():
    """Of the class: they differ from sampler to sampler."""
    for sampler in SAMPLERS.values():
        given = {"clip_sample": False, "skip_prk_steps": True}
        theirs = getattr(diffusers, sampler.class_name)().alphas_cumprod.numpy()
        assert np.array_equal(SchedulerConfig.read(given).schedule(sampler.options).alphas_cumprod, theirs.astype(np.float64))


@pytest.mark.parametrize("name, sampler", SAMPLERS.items())
def test_options_and_defaults_are_those_of_the_class(name, sampler):
    """Every option that the class reads has a rule, or changes nothing without another that is refused."""
    theirs = inspect.signature(getattr(diffusers, sampler.class_name).__init__).parameters
    read_elsewhere = {"sigma_min", "sigma_max"}  # of a config with entries that are another class's
    assert set(sampler.options) - set(theirs) <= {*NOT_IN_CONFIGS, *read_elsewhere}
    idle = {
        "dynamic_thresholding_ratio",
        "sample_max_value",
        "clip_sample_range",
        "flow_shift",
        "time_shift_type",
        "shift_terminal",
    }
    idle |= {"timestep_spacing", "steps_offset", "set_alpha_to_one"} if name in ("lcm", "tcd") else set()  # its steps read none
    idle |= {"timestep_scaling"} if name == "tcd" else set()
    assert set(theirs) - {"self"} - set(sampler.options) <= idle
    for option in set(theirs) & set(sampler.options):
        default = theirs[option].default
        assert sampler.options[option].default == (tuple(default) if isinstance(default, list) else default), option


def test_reads_the_config_of_a_live_scheduler():
    """Keys that diffusers filled in count as absent, so that another sampler's own default can hold."""
    live = PNDMScheduler.from_config(STABLE_DIFFUSION_1)
    assert live.config.timestep_spacing == "leading"
    read = SchedulerConfig.read(live.config)
    assert "timestep_spacing" not in read.given and read.given.items() >= SchedulerConfig.read(STABLE_DIFFUSION_1).given.items()


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
        ddim_schedule({**STABLE_DIFFUSION_1, option: value})


REFUSED = {"thresholding": True, "clip_sample": True, "use_flow_sigmas": True, "use_dynamic_shifting": True, "solver_p": "x"}
REFUSED |= {"variance_type": "learned", "beta_schedule": "laplace", "solver_order": 4, "prediction_type": "flow_prediction"}


@pytest.mark.parametrize("name, sampler", SAMPLERS.items())
def test_a_sampler_refuses_only_options_that_its_class_reads(name, sampler):
    """As diffusers: an option that a class does not read is ignored when one is made from another's config."""
    reads = inspect.signature(getattr(diffusers, sampler.class_name).__init__).parameters
    for option, value in REFUSED.items():
        config = SchedulerConfig.read({**STABLE_DIFFUSION_1, option: value})
        if option not in reads:
            recurrence(name, 5, config)
            continue
        with pytest.raises(SchedulerError, match=f"{option}: expected .*, found '?{value}'?"):
            recurrence(name, 5, config)


def test_a_model_is_judged_by_what_can_sample_it():
    assert judge_scheduler(STABLE_DIFFUSION_1) is None
    config = {**STABLE_DIFFUSION_1, "_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True}
    assert judge_scheduler(config) is None
    judged = judge_scheduler({**config, "thresholding": True}) or ""
    assert re.search("own scheduler .* thresholding: expected False, found True; .* --scheduler pndm or lms", judged)
    judged = judge_scheduler({**config, "_class_name": "EDMEulerScheduler"}) or ""
    assert re.search("own scheduler .* unknown sampler 'EDMEulerScheduler'.*; choose one .*: --scheduler ddim or", judged)
    with pytest.raises(SchedulerError, match="prediction_type: expected one of"):
        judge_scheduler({**config, "prediction_type": "flow_prediction"})


def test_an_absent_option_whose_default_cannot_be_honoured():
    for name, option, expected in (("ddim", "clip_sample", "False"), ("pndm", "skip_prk_steps", "True")):
        config = SchedulerConfig.read({key: value for key, value in STABLE_DIFFUSION_1.items() if key != option})
        with pytest.raises(
            SchedulerError, match=f"{option}: expected {expected}.*: the config has no entry, and this is the default"
        ):
            recurrence(name, 5, config)
        recurrence("lms", 5, config)


def test_at_most_one_spacing_of_sigma():
    both = {**STABLE_DIFFUSION_1, "use_karras_sigmas": True, "use_beta_sigmas": True}
    with pytest.raises(SchedulerError, match="use_karras_sigmas and use_beta_sigmas: expected at most one"):
        recurrence("euler", 5, SchedulerConfig.read(both))
    recurrence("ddim", 5, SchedulerConfig.read(both))


def test_noise_predictions_are_not_integrated_to_zero():
    config = SchedulerConfig.read({**STABLE_DIFFUSION_1, "algorithm_type": "dpmsolver"})
    with pytest.raises(SchedulerError, match="final_sigmas_type: expected sigma_min with algorithm_type dpmsolver"):
        recurrence("dpm_multistep", 5, config)


def test_beta_quantiles_equal_scipys():
    from scipy.stats import beta

    shares = np.linspace(0, 1, 251)
    np.testing.assert_allclose(_beta_quantiles(shares), beta.ppf(shares, 0.6, 0.6), atol=1e-12)


def test_takes_unsupported_options_that_are_off():
    options = {"thresholding": False, "use_karras_sigmas": None, "clip_sample_range": 1.0, "solver_order": 2, "_private": 1}
    for name in SAMPLERS:
        ours, plain = (recurrence(name, 5, SchedulerConfig.read({**STABLE_DIFFUSION_1, **more})) for more in (options, {}))
        assert np.array_equal(ours.matrices, plain.matrices)


def test_what_is_ours_is_not_read_from_a_config():
    given = SchedulerConfig.read({**STABLE_DIFFUSION_1, "eta": 1.0, "use_ays_sigmas": True})
    assert recurrence("ddim", 5, given).noisy.sum() == 0
    assert recurrence("euler", 5, given).options["use_ays_sigmas"] is False


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
        ddim_schedule({"trained_betas": betas, "num_train_timesteps": 2, "clip_sample": False})
