"""Pictures of every sampler through the engines equal those of diffusers' pipeline with its scheduler."""

import diffusers
import numpy as np
import pytest
import torch

from engines.errors import InputError
from runtime.samplers.registry import SAMPLERS
from tests.runtime.test_pipeline import FIRE, PLAIN, levels

NAMED = {  # names of the field, as diffusers' documentation makes them
    "DPM++ 2M Karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "DPM++ 2M SDE Exponential": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "use_exponential_sigmas": True},
    ),
    "Euler SGM Uniform": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
    "DPM2 a Karras": ("KDPM2AncestralDiscreteScheduler", {"use_karras_sigmas": True}),
    "UniPC beta": ("UniPCMultistepScheduler", {"use_beta_sigmas": True}),
    "DEIS Karras": ("DEISMultistepScheduler", {"use_karras_sigmas": True}),
}
CASES = {**{name: (row.class_name, {}) for name, row in SAMPLERS.items()}, **NAMED}


def drawn_by_diffusers(pipeline, class_name, options, **call):
    """Both prompts, with a scheduler made from the model's own."""
    own = pipeline.scheduler
    pipeline.scheduler = getattr(diffusers, class_name).from_config(own.config, **options)
    try:
        generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
        return pipeline([FIRE, PLAIN], generator=generators, **call).images
    finally:
        pipeline.scheduler = own


@pytest.mark.parametrize("name", CASES)
def test_unguarded_equals_diffusers(pipeline, diffusers_pipeline, name):
    class_name, options = CASES[name]
    call = {"num_inference_steps": 7, "guidance_scale": 2.0}
    expected = drawn_by_diffusers(diffusers_pipeline, class_name, options, **call)
    found = pipeline([FIRE, PLAIN], seed=5, scheduler=name, unguarded=True, **call)
    assert max(map(levels, found.images, expected)) <= 1
    report = found.reports[0]
    assert report.sampler in SAMPLERS and report.sampler_options.items() >= options.items()
    assert len(report.timesteps) >= 7 and np.isfinite(report.timesteps).all()


@pytest.mark.parametrize("steps", [1, 4])
def test_as_sd_turbo_is_sampled(pipeline, diffusers_pipeline, steps):
    """Its scheduler, and no guidance."""
    call = {"num_inference_steps": steps, "guidance_scale": 0.0}
    trailing = {"timestep_spacing": "trailing"}
    expected = drawn_by_diffusers(diffusers_pipeline, "EulerAncestralDiscreteScheduler", trailing, **call)
    found = pipeline([FIRE, PLAIN], seed=5, scheduler="Euler a", schedule_type="sgm uniform", unguarded=True, **call)
    assert max(map(levels, found.images, expected)) <= 1
    assert found.reports[0].guidance == "none" and found.reports[0].sampler_options.items() >= trailing.items()


def test_the_guard_acts_with_every_sampler(pipeline):
    """One run each, of a prompt that burns and one that does not: found at once, and only there.

    Later the guard sees what so few steps make of a picture, which with some samplers is debris.
    """
    for name in SAMPLERS:
        fire, plain = pipeline([FIRE, PLAIN], num_inference_steps=5, seed=5, scheduler=name, on_still_unsafe="deliver").reports
        assert fire.verdict in ("redirected", "still_unsafe") and 0 in fire.guards[0].unsafe_steps, name
        assert 0 not in plain.guards[0].unsafe_steps, name


def test_what_a_sampler_lacks_is_said_before_anything_runs(pipeline):
    with pytest.raises(InputError, match="eta: expected 0 with euler_ancestral, found 0.5; samplers that have one: ddim, tcd"):
        pipeline(PLAIN, scheduler="Euler a", eta=0.5)
    with pytest.raises(InputError, match="schedule_type karras with ddim: expected one that this sampler has"):
        pipeline(PLAIN, scheduler="ddim", schedule_type="karras")
    with pytest.raises(InputError, match="eta: expected a number of at least 0, found -1"):
        pipeline(PLAIN, eta=-1)
