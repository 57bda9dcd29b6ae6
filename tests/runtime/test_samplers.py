"""Every recurrence walks the same trajectory as the diffusers scheduler of its class, and every name finds its sampler."""

import random
import subprocess
import sys
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler
from diffusers.schedulers.scheduling_utils import AysSchedules

from runtime.samplers.names import REFUSED, SCHEDULE_TYPES
from runtime.samplers.options import SchedulerError
from runtime.samplers.registry import SAMPLERS, Sampler, judge_scheduler, recurrence, schedule_types
from runtime.samplers.schedules import SchedulerConfig
from saferedir.cli import main
from tests.runtime import parity
from tests.runtime.parity import STABLE_DIFFUSION_1, Case, error, mine, outcome, theirs
from tests.runtime.parity_matrix import matrix

MATRIX = matrix()
CONFIG = SchedulerConfig.read(STABLE_DIFFUSION_1)
ROWS = {"pndm": 13, "heun": 23, "dpm2": 23, "dpm2_ancestral": 23}
SLOTS = {
    "pndm": 4,
    "lms": 4,
    "heun": 3,
    "dpm2": 2,
    "dpm2_ancestral": 2,
    "dpm_multistep": 2,
    "dpm_singlestep": 3,
    "unipc": 4,
    "deis": 2,
}
NOISY = {"ddpm": 12, "euler_ancestral": 11, "dpm2_ancestral": 11, "lcm": 11}


@pytest.mark.parametrize("name", SAMPLERS)
def test_stable_diffusion_1(name):
    for steps in (1, 2, 20) if name.startswith("dpm2") else (1, 2, 3, 7, 20, 50):
        assert outcome(Case(name, steps)).kind == "equal", steps


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sample_of_the_matrix(name):
    """Combinations of options; the whole matrix is marked slow. diffusers takes half a second to make a DPM2."""
    cases = [case for case in MATRIX if case.name == name and case.options and case.steps <= 31]
    chosen = random.Random(0).sample(cases, 3 if name in ("lms", "dpm2", "dpm2_ancestral") else 20)
    assert [case for case in chosen if outcome(case).kind == "unequal"] == []


PUBLISHED = {  # what schedulers saved by diffusers say beside Stable Diffusion's betas
    "deis": {"solver_type": "logrho", "algorithm_type": "deis", "timestep_spacing": "leading", "solver_order": 2},
    "ddim": {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
    "euler_ancestral": {"timestep_spacing": "trailing", "interpolation_type": "linear", "use_karras_sigmas": False},
    "dpm_multistep": {
        "lambda_min_clipped": -np.inf,
        "variance_type": None,
        "algorithm_type": "dpmsolver++",
        "use_karras_sigmas": True,
    },
    "unipc": {"disable_corrector": [], "solver_p": None, "predict_x0": True, "timestep_values": None},
    "lcm": {"original_inference_steps": 50, "timestep_scaling": 10.0, "timestep_spacing": "leading"},
}


@pytest.mark.parametrize("name, given", PUBLISHED.items())
def test_a_models_own_config_runs_as_diffusers_runs_it(name, given):
    idle = {"dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0, "thresholding": False, "clip_sample_range": 1.0}
    config = {**STABLE_DIFFUSION_1, **given, **idle, "_class_name": SAMPLERS[name].class_name}
    assert judge_scheduler(config) is None
    case = Case(name, 8, tuple((option, tuple(value) if isinstance(value, list) else value) for option, value in config.items()))
    assert outcome(case).kind == "equal"
    assert np.array_equal(recurrence(config["_class_name"], 8, SchedulerConfig.read(config)).matrices, case.ours().matrices)


@pytest.mark.slow
def test_the_whole_matrix():
    """About a quarter of an hour. docs/samplers.md has its result; what diffusers fails at is listed there."""
    results = {case: outcome(case) for case in MATRIX}
    assert len(results) >= 2000
    assert {case: result for case, result in results.items() if result.kind == "unequal"} == {}
    counts = Counter(result.kind for result in results.values())
    assert set(counts) <= set(parity.KINDS) and counts["equal"] > 0.8 * len(results), counts


def test_the_matrix_sees_a_difference(monkeypatch):
    """A sampler with one weight wrong by 1 in 1000 is found."""
    row = SAMPLERS["euler"]

    def wrong(steps, schedule):
        timesteps, matrices, *scales = row.solve(steps, schedule)
        matrices[steps // 2, :, 1] *= 1.001
        return timesteps, matrices, *scales

    monkeypatch.setitem(SAMPLERS, "euler", Sampler(row.class_name, wrong, row.options))
    assert outcome(Case("euler", 10)).kind == "unequal"


@pytest.mark.parametrize("name", SAMPLERS)
def test_shape_of_a_recurrence(name):
    ours = recurrence(SAMPLERS[name].class_name, 12, CONFIG)
    assert ours.name == name
    assert ours.rows == len(ours.matrices) == ROWS.get(name, 12)
    assert ours.slots == SLOTS.get(name, 1)
    assert ours.matrices.shape[1:] == (ours.slots + 1, ours.slots + 2)
    assert ours.timesteps.dtype == ours.matrices.dtype == np.float32
    assert ours.noisy.sum() == NOISY.get(name, 0)
    assert ours.options.keys() == SAMPLERS[name].options.keys() and ours.options["steps_offset" if name == "ddim" else "beta_end"]
    with pytest.raises(ValueError, match="read-only"):
        ours.matrices[0, 0, 0] = 1


def test_no_sampler_needs_more_slots_than_engines_take():
    from engines.networks import SLOTS as ENGINE_SLOTS

    most = {**STABLE_DIFFUSION_1, "solver_order": 3}
    assert max(recurrence(name, 12, SchedulerConfig.read(most)).slots for name in SAMPLERS) <= ENGINE_SLOTS[-1]


def test_a_row_of_the_registry_is_all_that_a_sampler_needs(monkeypatch):
    matrices = np.ones((2, 2, 3))
    added = Sampler("EulerZScheduler", lambda steps, schedule: (np.arange(steps), matrices, 3.0, 0.5), SAMPLERS["ddim"].options)
    monkeypatch.setitem(SAMPLERS, "euler_z", added)
    for name in ("euler_z", "EulerZScheduler"):
        ours = recurrence(name, 2, CONFIG)
        assert (ours.name, ours.rows, ours.slots, ours.init_noise_sigma, ours.input_scale) == ("euler_z", 2, 1, 3.0, 0.5)
        assert np.array_equal(ours.matrices, matrices)
    with pytest.raises(SchedulerError, match="tcd, euler_z"):
        recurrence("euler_y", 2, CONFIG)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_step_count_gives_finite_matrices_or_a_clear_refusal(name):
    for spacing in ("leading", "trailing", "linspace"):
        config = {**STABLE_DIFFUSION_1, "num_train_timesteps": 100, "timestep_spacing": spacing}
        for steps in range(1, 101):
            try:
                with warnings.catch_warnings(action="error"):
                    assert np.isfinite(recurrence(name, steps, SchedulerConfig.read(config)).matrices).all()
            except SchedulerError as refused:
                assert "num_inference_steps" in str(refused)


def test_leading_offset_and_trailing_rounding_are_refused():
    """Diffusers fails at 1000 of 1000 steps with an offset of 1, and takes 62 steps for 61, the last at −1."""
    for name in ("ddim", "pndm", "euler", "lms"):
        with pytest.raises(SchedulerError, match="found 1000"):
            recurrence(name, 1000, SchedulerConfig.read({**STABLE_DIFFUSION_1, "timestep_spacing": "leading"}))
        case = Case(name, 61, (("timestep_spacing", "trailing"),))
        assert case.scheduler().timesteps[-1] == -1
        with pytest.raises(SchedulerError, match="found -1"):
            case.ours()


def test_what_diffusers_gets_wrong_is_right_here():
    """UniPC bh1 divides by an infinite step at σ = 0; DPM-Solver of order 3 by a step of length 0 at the end of Karras' σ."""
    for case in (
        Case("unipc", 9, (("solver_type", "bh1"),)),
        Case("dpm_multistep", 20, (("final_sigmas_type", "sigma_min"), ("solver_order", 3), ("use_karras_sigmas", True))),
    ):
        assert outcome(case).kind == "diffusers fails"
        assert np.isfinite(mine(case.ours(), np.float64)).all()


@pytest.mark.parametrize("steps", [0, -3, 1001, 2.5, True, None])
def test_refuses_step_counts(steps):
    with pytest.raises(SchedulerError, match=f"num_inference_steps.*found {steps}"):
        recurrence("ddim", steps, CONFIG)


def test_lcm_refuses_more_steps_than_it_was_distilled_from():
    with pytest.raises(SchedulerError, match="expected 1 to 50 .original_inference_steps., found 51"):
        recurrence("lcm", 51, CONFIG)


# Names


@pytest.mark.parametrize(
    "name, sampler, options",
    [
        ("DPM++ 2M Karras", "dpm_multistep", {"algorithm_type": "dpmsolver++", "solver_order": 2, "use_karras_sigmas": True}),
        ("dpmpp_2m", "dpm_multistep", {"algorithm_type": "dpmsolver++", "use_karras_sigmas": False}),
        ("DPM++ 2M SDE Exponential", "dpm_multistep", {"algorithm_type": "sde-dpmsolver++", "use_exponential_sigmas": True}),
        ("DPM++ 2M SDE Heun Karras", "dpm_multistep", {"solver_type": "heun", "use_karras_sigmas": True}),
        ("dpmpp_3m_sde", "dpm_multistep", {"algorithm_type": "sde-dpmsolver++", "solver_order": 3}),
        ("DPM++ SDE Karras", "dpm_singlestep", {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True}),
        ("Euler a", "euler_ancestral", {}),
        ("EULER", "euler", {}),
        ("Euler SGM Uniform", "euler", {"timestep_spacing": "trailing"}),
        ("euler simple", "euler", {"timestep_spacing": "trailing"}),
        ("UniPC DDIM", "unipc", {"timestep_spacing": "leading"}),
        ("DPM2 a Karras", "dpm2_ancestral", {"use_karras_sigmas": True}),
        ("LMS Karras", "lms", {"use_karras_sigmas": True}),
        ("PLMS", "pndm", {}),
        ("UniPC", "unipc", {"solver_type": "bh2"}),
        ("UniPCMultistepScheduler", "unipc", {}),
        ("LCM", "lcm", {}),
        ("Euler Align Your Steps", "euler", {"use_ays_sigmas": True}),
    ],
)
def test_names_of_the_field(name, sampler, options):
    ours = recurrence(name, 8, CONFIG)
    assert ours.name == sampler and ours.options.items() >= options.items()
    assert np.array_equal(recurrence(name.upper(), 8, CONFIG).matrices, ours.matrices)


def test_sampler_and_schedule_type_apart():
    together, apart = recurrence("DPM++ 2M Karras", 8, CONFIG), recurrence("DPM++ 2M", 8, CONFIG, schedule_type="Karras")
    assert np.array_equal(together.matrices, apart.matrices)
    exponential = recurrence("DPM++ 2M Karras", 8, CONFIG, schedule_type="exponential")
    assert exponential.options["use_exponential_sigmas"] and not exponential.options["use_karras_sigmas"]


def test_a_name_goes_before_the_models_config_in_what_it_names_only():
    config = SchedulerConfig.read({**STABLE_DIFFUSION_1, "use_beta_sigmas": True, "solver_order": 3, "euler_at_final": True})
    assert recurrence("dpm_multistep", 8, config).options.items() >= {"use_beta_sigmas": True, "solver_order": 3}.items()
    named = recurrence("DPM++ 2M Karras", 8, config).options
    assert named.items() >= {"use_beta_sigmas": False, "solver_order": 2, "euler_at_final": True, "steps_offset": 1}.items()


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_schedule_type_is_taken_or_refused_by_name(name):
    for kind in SCHEDULE_TYPES:
        if kind in schedule_types(name):
            assert recurrence(name, 8, CONFIG, schedule_type=kind).rows
        else:
            with pytest.raises(SchedulerError, match=f"schedule_type {kind} with {name}: expected one that .*automatic"):
                recurrence(name, 8, CONFIG, schedule_type=kind)
    with pytest.raises(SchedulerError, match="schedule_type: expected one of automatic, karras.*found 'kl optimal'"):
        recurrence(name, 8, CONFIG, schedule_type="kl optimal")


@pytest.mark.parametrize("name, found", [(name, why) for name, (why, _) in REFUSED.items()])
def test_what_is_not_linear_is_refused_with_the_nearest(name, found):
    with pytest.raises(SchedulerError, match=f"found that {found}; nearest: ") as refused:
        recurrence(name, 8, CONFIG)
    nearest = str(refused.value).split("nearest: '")[1].rstrip("'")
    assert recurrence(nearest, 8, CONFIG).rows


@pytest.mark.parametrize("name", ["euler_z", "", "Karras", "DPM++", "DDIM CFG++", "\x1b[31m"])
def test_refuses_an_unknown_sampler(name):
    with pytest.raises(SchedulerError, match="unknown sampler .*expected one of ddim, ddpm, .*saferedir samplers") as refused:
        recurrence(name, 10, CONFIG)
    assert refused.value.args[0].isprintable()


def test_eta():
    assert recurrence("ddim", 8, CONFIG, eta=0.5).noisy.all()
    assert recurrence("DDIM", 8, CONFIG).options["eta"] == 0
    with pytest.raises(SchedulerError, match="eta: expected 0 with euler, found 0.5; samplers that have one: ddim, tcd"):
        recurrence("euler", 8, CONFIG, eta=0.5)
    with pytest.raises(SchedulerError, match="eta: expected a number of 0 to 1, found 1.5"):
        recurrence("tcd", 8, CONFIG, eta=1.5)


def test_align_your_steps_equals_diffusers_at_ten_steps():
    """diffusers takes the paper's ten timesteps, or σ of three digits, as custom ones."""
    config = {**STABLE_DIFFUSION_1, "_class_name": "x"}
    for name, scheduler in (("dpm_multistep", DPMSolverMultistepScheduler), ("euler", EulerDiscreteScheduler)):
        made = scheduler.from_config(config)
        made.set_timesteps(timesteps=AysSchedules["StableDiffusionTimesteps"])
        ours = recurrence(name, 10, CONFIG, schedule_type="align your steps")
        np.testing.assert_allclose(ours.timesteps, made.timesteps.numpy(), atol=1e-3)
        assert error(mine(ours, np.float32), theirs(Case(name, 10), made)) < 1e-4
    euler = recurrence("euler", 10, CONFIG, schedule_type="align your steps")
    assert euler.init_noise_sigma == pytest.approx(AysSchedules["StableDiffusionSigmas"][0], rel=1e-3)
    with pytest.raises(SchedulerError, match="Align Your Steps: expected Stable Diffusion's 1000 timesteps"):
        recurrence("euler", 10, SchedulerConfig.read({**STABLE_DIFFUSION_1, "beta_end": 0.02}), schedule_type="align your steps")


def test_the_command_lists_every_sampler(capsys):
    assert main(["samplers"]) == 0
    printed = capsys.readouterr().out
    for name, row in SAMPLERS.items():
        assert f"{name}\n  also called: {row.class_name}" in printed
    assert main(["samplers", "ddim"]) == 0
    assert "takes: --eta" in capsys.readouterr().out
    assert main(["samplers", "euler_z"]) == 2
    assert capsys.readouterr().err.startswith("error: name: expected some of ddim")


def test_needs_numpy_only():
    heavy = ("torch", "diffusers", "transformers", "scipy", "onnx")
    program = (
        "import sys, runtime.samplers.registry, runtime.samplers.schedules, engines.noise; "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_noise_is_drawn_as_diffusers_draws_it():
    """A run of two images draws from each one's own stream, in the order of rows."""
    case = Case("euler_ancestral", 9)
    alone = [mine(case.ours(), np.float32)[:, image] for image in range(len(parity.SEEDS))]
    diffusers_run = theirs(case, case.scheduler())
    for image, samples in enumerate(alone):
        assert error(samples[:, None], diffusers_run[:, image, None]) < 1e-5
    generators = [torch.Generator().manual_seed(seed) for seed in parity.SEEDS]
    first = np.stack([torch.randn(parity.IMAGE, generator=generator).numpy() for generator in generators])
    np.testing.assert_allclose(first, np.stack([parity.NormalStream(seed).draw(parity.IMAGE) for seed in parity.SEEDS]), atol=1e-6)
