"""Every recurrence walks the same trajectory as the diffusers scheduler of its name."""

import subprocess
import sys
import warnings

import diffusers
import numpy as np
import pytest
import torch
from diffusers import PNDMScheduler

from runtime.samplers.recurrence import Recurrence, apply_row
from runtime.samplers.registry import SAMPLERS, Sampler, recurrence
from runtime.samplers.schedules import NoiseSchedule, SchedulerError
from tests.runtime.test_schedules import STABLE_DIFFUSION_1

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
    return getattr(diffusers, SAMPLERS[name].class_name).from_config(PNDMScheduler.from_config(config).config)


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


def our_trajectory(ours: Recurrence, dtype: type) -> np.ndarray:
    state = np.zeros((ours.slots, *SHAPE), dtype)
    state[0] = first_noise().astype(dtype) * dtype(ours.init_noise_sigma)
    model_input = state[0] * dtype(ours.input_scale)
    samples = []
    for t, matrix in zip(ours.timesteps, ours.matrices.astype(dtype), strict=True):
        output = stand_in(model_input, float(t)).astype(dtype)
        state, model_input = apply_row(matrix, state, output, np.zeros(SHAPE, dtype))
        samples.append(state[0])
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
        ours = recurrence(name, steps, schedule)
        assert np.array_equal(ours.timesteps, timesteps), f"{steps} steps"
        assert relative_error(our_trajectory(ours, np.float32), theirs) < tolerance, f"{steps} steps"


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
    """With diffusers' ᾱ widened to float64, what is left is the float32 rounding of the matrices."""
    if (name, prediction_type) == ("pndm", "sample"):
        pytest.skip("PNDM has no sample prediction")
    config = {**STABLE_DIFFUSION_1, "prediction_type": prediction_type, "timestep_spacing": "trailing"}
    for steps in (1, 2, 3, 5, 50):
        scheduler = diffusers_scheduler(name, config)
        scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
        scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[0]
        _, theirs = diffusers_trajectory(scheduler, steps, torch.float64)
        ours = recurrence(name, steps, NoiseSchedule.from_config(config))
        assert relative_error(our_trajectory(ours, np.float64), theirs) < 2e-6, f"{steps} steps"


@pytest.mark.parametrize("name", SAMPLERS)
def test_shape_of_a_recurrence(name):
    ours = recurrence(SAMPLERS[name].class_name, 50, NoiseSchedule.from_config(STABLE_DIFFUSION_1))
    assert ours.name == name
    assert ours.rows == len(ours.matrices) == (51 if name == "pndm" else 50)
    assert ours.slots == {"ddim": 1, "pndm": 4, "lms": 4}[name]
    assert ours.matrices.shape[1:] == (ours.slots + 1, ours.slots + 2)
    assert ours.timesteps.dtype == ours.matrices.dtype == np.float32
    assert np.isfinite(ours.matrices).all()
    assert ours.noisy.tolist() == [False] * ours.rows
    with pytest.raises(ValueError, match="read-only"):
        ours.matrices[0, 0, 0] = 1


def test_pndm_second_row_starts_from_the_first_sample():
    ours = recurrence("pndm", 50, NoiseSchedule.from_config(STABLE_DIFFUSION_1))
    assert ours.timesteps[1] == ours.timesteps[2]
    assert ours.matrices[0, 3].tolist() == [1, 0, 0, 0, 0, 0]  # slot 3 keeps the sample
    assert ours.matrices[1, 0, 0] == 0 and ours.matrices[1, 0, 3] == ours.matrices[0, 0, 0]


def test_a_row_of_the_registry_is_all_that_a_sampler_needs(monkeypatch):
    schedule = NoiseSchedule.from_config(STABLE_DIFFUSION_1)
    matrices = np.ones((2, 2, 3))
    added = Sampler("EulerZScheduler", lambda steps, schedule: (np.arange(steps), matrices, 3.0, 0.5))
    monkeypatch.setitem(SAMPLERS, "euler_z", added)
    for name in ("euler_z", "EulerZScheduler"):
        ours = recurrence(name, 2, schedule)
        assert (ours.name, ours.rows, ours.slots, ours.init_noise_sigma, ours.input_scale) == ("euler_z", 2, 1, 3.0, 0.5)
        assert np.array_equal(ours.matrices, matrices)
    with pytest.raises(SchedulerError, match="ddim, pndm, lms, euler_z"):
        recurrence("euler", 2, schedule)


@pytest.mark.parametrize("steps", [0, -3, 1001, 2.5, True, None])
def test_refuses_step_counts(steps):
    with pytest.raises(SchedulerError, match=f"num_inference_steps.*found {steps}"):
        recurrence("ddim", steps, NoiseSchedule.from_config(STABLE_DIFFUSION_1))


def test_refuses_an_unknown_sampler():
    with pytest.raises(SchedulerError, match="'euler_z'.*ddim, pndm, lms"):
        recurrence("euler_z", 10, NoiseSchedule.from_config(STABLE_DIFFUSION_1))


@pytest.mark.parametrize("name", SAMPLERS)
def test_refuses_timesteps_outside_training(name):
    """Diffusers fails at 1000 of 1000 steps with an offset of 1, and takes 62 steps for 61, the last at −1."""
    with pytest.raises(SchedulerError, match="found 1000"):
        recurrence(name, 1000, NoiseSchedule.from_config({**STABLE_DIFFUSION_1, "timestep_spacing": "leading"}))
    trailing = {**STABLE_DIFFUSION_1, "timestep_spacing": "trailing"}
    scheduler = diffusers_scheduler(name, trailing)
    scheduler.set_timesteps(61)
    assert scheduler.timesteps[-1] == -1
    with pytest.raises(SchedulerError, match="found -1"):
        recurrence(name, 61, NoiseSchedule.from_config(trailing))


def test_refuses_what_a_sampler_lacks():
    def without(key: str) -> NoiseSchedule:
        return NoiseSchedule.from_config({k: v for k, v in STABLE_DIFFUSION_1.items() if k != key})

    with pytest.raises(SchedulerError, match="skip_prk_steps: expected True"):
        recurrence("pndm", 10, without("skip_prk_steps"))
    with pytest.raises(SchedulerError, match="clip_sample: expected False, found no entry"):
        recurrence("ddim", 10, without("clip_sample"))
    recurrence("lms", 10, without("clip_sample"))
    recurrence("pndm", 10, without("clip_sample"))
    with pytest.raises(SchedulerError, match="prediction_type: expected epsilon or v_prediction"):
        recurrence("pndm", 10, NoiseSchedule.from_config({**STABLE_DIFFUSION_1, "prediction_type": "sample"}))


def test_every_step_count_gives_finite_matrices_or_a_clear_refusal():
    for spacing in ("leading", "trailing", "linspace"):
        config = {**STABLE_DIFFUSION_1, "num_train_timesteps": 100, "timestep_spacing": spacing}
        schedule = NoiseSchedule.from_config(config)
        refused = []
        for name in SAMPLERS:
            for steps in range(1, 101):
                try:
                    with warnings.catch_warnings(action="error"):
                        assert np.isfinite(recurrence(name, steps, schedule).matrices).all()
                except SchedulerError:
                    refused.append(steps)
        assert set(refused) == {"leading": {100}, "trailing": {29, 31, 58, 62, 97}, "linspace": set()}[spacing]


def test_needs_numpy_only():
    heavy = ("torch", "diffusers", "transformers", "scipy", "onnx")
    program = (
        "import sys, runtime.samplers.registry, runtime.samplers.schedules, engines.noise; "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
