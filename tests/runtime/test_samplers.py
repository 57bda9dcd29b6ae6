"""Every table walks the same trajectory as the diffusers scheduler of its name."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, LMSDiscreteScheduler, PNDMScheduler

from runtime.samplers.schedules import NoiseSchedule, SchedulerError
from runtime.samplers.tables import SAMPLERS, SamplerTable, apply_row, sampler_table
from tests.runtime.test_schedules import STABLE_DIFFUSION_1

CLASSES = {"ddim": DDIMScheduler, "pndm": PNDMScheduler, "lms": LMSDiscreteScheduler}
SHAPE = (2, 4, 3, 3)
STEP_COUNTS = {
    "ddim": [*range(1, 13), 20, 25, 50, 100],
    "pndm": [*range(1, 13), 20, 25, 50, 100],
    "lms": [*range(1, 8), 12, 25],  # diffusers integrates numerically: about 3 ms a row
}


def stand_in(model_input: np.ndarray, timestep: float) -> np.ndarray:
    """A nonlinear network in float64 that couples pixels and depends on the timestep."""
    x = model_input.astype(np.float64)
    gain = 0.6 + 0.3 * np.sin(timestep / 150)
    return np.tanh(1.3 * x + 0.4 * np.roll(x, 1, -1)) * gain + 0.05 * np.cos(2 * x)


def first_noise() -> np.ndarray:
    return np.random.RandomState(0).standard_normal(SHAPE)


def diffusers_scheduler(name: str, config: dict):
    """As a user swaps schedulers: load the model's own, then build the other from its config."""
    return CLASSES[name].from_config(PNDMScheduler.from_config(config).config)


def diffusers_trajectory(scheduler, steps: int, dtype: torch.dtype) -> tuple[np.ndarray, np.ndarray]:
    scheduler.set_timesteps(steps)
    sample = torch.tensor(first_noise()).to(dtype) * scheduler.init_noise_sigma
    samples = []
    for t in scheduler.timesteps:
        model_input = scheduler.scale_model_input(sample, t)
        output = torch.tensor(stand_in(model_input.numpy(), float(t))).to(dtype)
        sample = scheduler.step(output, t, sample).prev_sample
        samples.append(sample.numpy())
    return scheduler.timesteps.numpy().astype(np.float32), np.array(samples)


def table_trajectory(table: SamplerTable, dtype: type) -> np.ndarray:
    sample = first_noise().astype(dtype) * dtype(table.init_noise_sigma)
    model_input = sample * dtype(table.input_scale)
    history_x = np.zeros((table.history_x, *SHAPE), dtype)
    history_eps = np.zeros((table.history_eps, *SHAPE), dtype)
    samples = []
    for t, row in zip(table.timesteps, table.coefficients.astype(dtype), strict=True):
        output = stand_in(model_input, float(t)).astype(dtype)
        sample, history_x, history_eps, model_input = apply_row(row, sample, output, np.zeros(SHAPE, dtype), history_x, history_eps)
        samples.append(sample)
    return np.array(samples)


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest error of any row, relative to that row's largest value (at least 1)."""
    assert ours.shape == theirs.shape and np.isfinite(theirs).all()
    axes = (1, 2, 3, 4)
    return float((np.abs(ours - theirs).max(axes) / np.maximum(1, np.abs(theirs).max(axes))).max())


def assert_same(name: str, config: dict, step_counts: list[int], tolerance: float = 1e-4) -> None:
    schedule = NoiseSchedule.from_config(config)
    for steps in step_counts:
        timesteps, theirs = diffusers_trajectory(diffusers_scheduler(name, config), steps, torch.float32)
        table = sampler_table(name, steps, schedule)
        assert np.array_equal(table.timesteps, timesteps), f"{steps} steps"
        assert relative_error(table_trajectory(table, np.float32), theirs) < tolerance, f"{steps} steps"


@pytest.mark.parametrize("name", SAMPLERS)
def test_stable_diffusion_1(name):
    assert_same(name, STABLE_DIFFUSION_1, STEP_COUNTS[name])


@pytest.mark.parametrize("offset_and_one", [(0, True), (1, False), (1, True), (3, None)])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace", None])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_option(name, prediction_type, spacing, offset_and_one):
    if (name, prediction_type) == ("pndm", "sample"):
        pytest.skip("PNDM has no sample prediction")
    steps_offset, to_one = offset_and_one
    if name == "lms" and not (offset_and_one == (0, True) or (spacing == "leading" and offset_and_one == (1, False))):
        pytest.skip("LMS has no set_alpha_to_one, and an offset with leading spacing only")
    config = {**STABLE_DIFFUSION_1, "prediction_type": prediction_type, "steps_offset": steps_offset}
    del config["set_alpha_to_one"]
    config |= {} if to_one is None else {"set_alpha_to_one": to_one}
    config |= {} if spacing is None else {"timestep_spacing": spacing}
    assert_same(name, config, [1, 2, 3, 4, 5, 7, 25] if name == "lms" else [*range(1, 8), 11, 25, 50])


@pytest.mark.parametrize("beta_schedule", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_other_noise(name, beta_schedule):
    """With squaredcos_cap_v2, ᾱ ends at 2e-9: only leading spacing stays away from where float32 itself gives out."""
    config = {**STABLE_DIFFUSION_1, "beta_schedule": beta_schedule, "timestep_spacing": "leading"}
    for prediction_type in ("epsilon", "v_prediction"):
        assert_same(name, config | {"prediction_type": prediction_type}, [1, 2, 3, 5, 20])


@pytest.mark.parametrize("name", SAMPLERS)
def test_short_training_schedule_to_its_last_step(name):
    config = {**STABLE_DIFFUSION_1, "num_train_timesteps": 40, "steps_offset": 0}
    assert_same(name, config, [1, 3, 39, 40])


@pytest.mark.parametrize("name", ["ddim", "pndm"])
def test_999_steps(name):
    assert_same(name, STABLE_DIFFUSION_1, [999])


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", ["ddim", "pndm"])
def test_float64_trajectories_are_tight(name, prediction_type):
    """With diffusers' ᾱ widened to float64, what is left is the float32 rounding of the table."""
    if (name, prediction_type) == ("pndm", "sample"):
        pytest.skip("PNDM has no sample prediction")
    config = {**STABLE_DIFFUSION_1, "prediction_type": prediction_type, "timestep_spacing": "trailing"}
    for steps in (1, 2, 3, 5, 50):
        scheduler = diffusers_scheduler(name, config)
        scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
        scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[0]
        _, theirs = diffusers_trajectory(scheduler, steps, torch.float64)
        table = sampler_table(name, steps, NoiseSchedule.from_config(config))
        assert relative_error(table_trajectory(table, np.float64), theirs) < 2e-6, f"{steps} steps"


@pytest.mark.parametrize("name", SAMPLERS)
def test_shape_of_a_table(name):
    table = sampler_table(CLASSES[name].__name__, 50, NoiseSchedule.from_config(STABLE_DIFFUSION_1))
    assert table.name == name
    assert table.rows == len(table.coefficients) == (51 if name == "pndm" else 50)
    assert (table.history_x, table.history_eps) == (1, {"ddim": 1, "pndm": 4, "lms": 3}[name])
    assert table.coefficients.shape[1] == 4 + (table.history_x + 1) + (table.history_eps + 1)
    assert table.timesteps.dtype == table.coefficients.dtype == np.float32
    assert np.isfinite(table.coefficients).all()
    with pytest.raises(ValueError, match="read-only"):
        table.coefficients[0, 0] = 1


def test_pndm_second_row_starts_from_the_first_sample():
    table = sampler_table("pndm", 50, NoiseSchedule.from_config(STABLE_DIFFUSION_1))
    assert table.timesteps[1] == table.timesteps[2]
    assert table.coefficients[1, 4] == 0 and table.coefficients[1, 5] == table.coefficients[0, 4]


def test_noise_and_history_move_as_the_layout_says():
    rng = np.random.default_rng(0)
    x, m, noise = rng.standard_normal((3, *SHAPE))
    history_x, history_eps = rng.standard_normal((2, *SHAPE)), rng.standard_normal((2, *SHAPE))
    p, q, s, c_next, a, b = 0.3, 0.7, 0.2, 0.5, np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0, 6.0])
    row = np.concatenate([[p, q, s, c_next], a, b])
    next_x, next_history_x, next_history_eps, model_input = apply_row(row, x, m, noise, history_x, history_eps)
    eps = p * x + q * m
    expected = a[0] * x + a[1] * history_x[0] + a[2] * history_x[1] + s * noise
    expected += b[0] * eps + b[1] * history_eps[0] + b[2] * history_eps[1]
    np.testing.assert_allclose(next_x, expected)
    np.testing.assert_allclose(model_input, c_next * expected)
    np.testing.assert_array_equal(next_history_x, np.stack([x, history_x[0]]))
    np.testing.assert_array_equal(next_history_eps, np.stack([eps, history_eps[0]]))


@pytest.mark.parametrize("steps", [0, -3, 1001, 2.5, True, None])
def test_refuses_step_counts(steps):
    with pytest.raises(SchedulerError, match=f"num_inference_steps.*found {steps}"):
        sampler_table("ddim", steps, NoiseSchedule.from_config(STABLE_DIFFUSION_1))


def test_refuses_an_unknown_sampler():
    with pytest.raises(SchedulerError, match="'euler_z'.*ddim, pndm, lms"):
        sampler_table("euler_z", 10, NoiseSchedule.from_config(STABLE_DIFFUSION_1))


@pytest.mark.parametrize("name", SAMPLERS)
def test_refuses_timesteps_outside_training(name):
    """Diffusers fails at 1000 of 1000 steps with an offset of 1, and takes 62 steps for 61, the last at −1."""
    with pytest.raises(SchedulerError, match="found 1000"):
        sampler_table(name, 1000, NoiseSchedule.from_config({**STABLE_DIFFUSION_1, "timestep_spacing": "leading"}))
    trailing = {**STABLE_DIFFUSION_1, "timestep_spacing": "trailing"}
    scheduler = diffusers_scheduler(name, trailing)
    scheduler.set_timesteps(61)
    assert scheduler.timesteps[-1] == -1
    with pytest.raises(SchedulerError, match="found -1"):
        sampler_table(name, 61, NoiseSchedule.from_config(trailing))


def test_refuses_what_a_sampler_lacks():
    def without(key: str) -> NoiseSchedule:
        return NoiseSchedule.from_config({k: v for k, v in STABLE_DIFFUSION_1.items() if k != key})

    with pytest.raises(SchedulerError, match="skip_prk_steps: expected True"):
        sampler_table("pndm", 10, without("skip_prk_steps"))
    with pytest.raises(SchedulerError, match="clip_sample: expected False, found no entry"):
        sampler_table("ddim", 10, without("clip_sample"))
    sampler_table("lms", 10, without("clip_sample"))
    sampler_table("pndm", 10, without("clip_sample"))
    with pytest.raises(SchedulerError, match="prediction_type: expected epsilon or v_prediction"):
        sampler_table("pndm", 10, NoiseSchedule.from_config({**STABLE_DIFFUSION_1, "prediction_type": "sample"}))


def test_every_step_count_gives_a_finite_table_or_a_clear_refusal():
    for spacing in ("leading", "trailing", "linspace"):
        config = {**STABLE_DIFFUSION_1, "num_train_timesteps": 100, "timestep_spacing": spacing}
        schedule = NoiseSchedule.from_config(config)
        refused = []
        for name in SAMPLERS:
            for steps in range(1, 101):
                try:
                    with warnings.catch_warnings(action="error"):
                        assert np.isfinite(sampler_table(name, steps, schedule).coefficients).all()
                except SchedulerError:
                    refused.append(steps)
        assert set(refused) == {"leading": {100}, "trailing": {29, 31, 58, 62, 97}, "linspace": set()}[spacing]


def test_needs_numpy_only():
    heavy = ("torch", "diffusers", "transformers", "scipy", "onnx")
    program = (
        "import sys, runtime.samplers.tables, runtime.samplers.schedules, runtime.noise; "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
