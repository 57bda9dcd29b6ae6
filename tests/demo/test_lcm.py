"""The distillation of the demo for few steps: what it starts from, and at which timesteps it works."""

from __future__ import annotations

import torch
from diffusers import DDIMScheduler

from demo.lcm import EMBEDDING, PLACES, STEPS, new_scheduler, new_student


def test_it_begins_as_the_teacher(diffusers_pipeline):
    student, draw = new_student(diffusers_pipeline.unet).eval(), torch.Generator().manual_seed(0)
    sample, embeds, condition = (torch.randn(shape, generator=draw) for shape in ((2, 4, 16, 16), (2, 77, 96), (2, EMBEDDING)))
    with torch.no_grad():
        expected = diffusers_pipeline.unet(sample, 500, embeds).sample
        torch.testing.assert_close(student(sample, 500, embeds, timestep_cond=condition).sample, expected)


def test_few_steps_are_steps_of_a_trajectory(diffusers_pipeline):
    trajectory = DDIMScheduler.from_config(diffusers_pipeline.scheduler.config, timestep_spacing="trailing")
    trajectory.set_timesteps(STEPS)
    trained, scheduler = trajectory.timesteps[list(PLACES)].tolist(), new_scheduler(diffusers_pipeline)
    for steps in (1, 2, 4):
        scheduler.set_timesteps(steps)
        assert set(scheduler.timesteps.tolist()) <= {*trained}
    assert scheduler.timesteps.tolist() == trained
