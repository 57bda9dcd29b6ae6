"""Distil the demo's UNet into one for few steps, with the guidance scale as an input. `python demo/lcm.py`

A consistency function (Song et al. 2023; Luo et al. 2023 for latents and guidance) gives the end of the sampling trajectory that
passes through a noisy latent. Its targets are the ends of the teacher's own DDIM trajectories, all of them sampled first. It takes
six minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
if __package__ in (None, ""):
    sys.path[0] = str(ROOT)

import numpy as np  # noqa: E402
import torch  # noqa: E402
from diffusers import DDIMScheduler, LCMScheduler, StableDiffusionPipeline, UNet2DConditionModel  # noqa: E402
from torch import Tensor  # noqa: E402
from tqdm import tqdm  # noqa: E402

from demo.families import random_caption  # noqa: E402
from demo.precision import mixed_precision  # noqa: E402
from demo.scene import training_scenes  # noqa: E402
from demo.trainer import TrainingSetup, save_atomically, train  # noqa: E402
from demo.vocabulary import token_ids  # noqa: E402

SETUP = TrainingSetup(steps=600, learning_rate=6e-4, average=0.99)
BATCH = 16
ROUNDS, PROMPTS = 40, 32  # of trajectories
STEPS = 10  # of a trajectory
PLACES = (0, 2, 5, 7)  # of its steps, those that LCMScheduler takes for 4 steps; for 1 and 2 it takes some of these
GUIDANCE = (3.0, 9.0)  # drawn for each prompt
EMBEDDING = 64  # width of the guidance embedding
HUBER = 0.01  # where the loss turns from square to absolute


class Trajectories(NamedTuple):
    """N of them: latents before each step [STEPS, N, 4, 16, 16], last ones [N, 4, 16, 16], prompt ids [N, 77], scales [N]."""

    latents: Tensor
    final: Tensor
    ids: Tensor
    guidance: Tensor


def new_scheduler(teacher: StableDiffusionPipeline) -> LCMScheduler:
    """Few steps at timesteps that the trajectories have."""
    return LCMScheduler.from_config(teacher.scheduler.config, original_inference_steps=STEPS)


@torch.no_grad()
def trajectories(teacher: StableDiffusionPipeline, cache: Path) -> Trajectories:
    """Guided DDIM trajectories of captions of `training_scenes`."""
    if cache.exists():
        return Trajectories(**torch.load(cache, weights_only=True))
    draw = np.random.default_rng(6)
    scheduler = DDIMScheduler.from_config(teacher.scheduler.config, timestep_spacing="trailing")
    scheduler.set_timesteps(STEPS)
    empty = teacher.text_encoder(token_ids(teacher.tokenizer, [""])).last_hidden_state
    parts: list[Trajectories] = []
    for number in tqdm(range(ROUNDS), desc="trajectories", mininterval=10):
        captions = [random_caption(scene, draw) for scene in training_scenes(draw, PROMPTS)]
        ids = token_ids(teacher.tokenizer, captions)
        embeds = teacher.text_encoder(ids).last_hidden_state
        guidance = torch.from_numpy(draw.uniform(*GUIDANCE, PROMPTS)).float()
        latents, path = torch.randn(PROMPTS, 4, 16, 16, generator=torch.Generator().manual_seed(number)), []
        for timestep in scheduler.timesteps:
            path.append(latents)
            with mixed_precision():
                both = torch.cat([empty.expand_as(embeds), embeds])
                free, guided = teacher.unet(torch.cat([latents] * 2), timestep, both).sample.float().chunk(2)
            noise = free + guidance.view(-1, 1, 1, 1) * (guided - free)
            latents = scheduler.step(noise, timestep, latents).prev_sample
        parts.append(Trajectories(torch.stack(path), latents, ids, guidance))
    final, ids, guidance = (torch.cat([part[place] for part in parts]) for place in (1, 2, 3))
    joined = Trajectories(torch.cat([part.latents for part in parts], dim=1), final, ids, guidance)
    save_atomically(joined._asdict(), cache)
    return joined


def new_student(teacher: UNet2DConditionModel) -> UNet2DConditionModel:
    """The teacher, with a guidance embedding that it does not listen to yet."""
    config = {key: value for key, value in teacher.config.items() if not key.startswith("_")}  # not where it was read from
    student = UNet2DConditionModel.from_config({**config, "time_cond_proj_dim": EMBEDDING})
    nothing = torch.zeros_like(student.time_embedding.cond_proj.weight)
    student.load_state_dict({**teacher.state_dict(), "time_embedding.cond_proj.weight": nothing})
    return student


def train_student(teacher: StableDiffusionPipeline, work: Path) -> UNet2DConditionModel:
    """Train from any point of a trajectory to its end. The weights are rounded to float16, as they are shipped."""
    paths, scheduler = trajectories(teacher, work / "lcm_trajectories.pt"), new_scheduler(teacher)
    timesteps = torch.arange(STEPS, 0, -1) * (scheduler.config.num_train_timesteps // STEPS) - 1
    torch.manual_seed(0)
    student = new_student(teacher.unet)

    def loss_of(step: int) -> Tensor:
        draw = torch.Generator().manual_seed(step)
        rows, chosen = (torch.randint(count, (BATCH,), generator=draw) for count in (len(paths.final), len(PLACES)))
        places = torch.tensor(PLACES)[chosen]
        noisy, times = paths.latents[places, rows], timesteps[places]
        with torch.no_grad():
            embeds = teacher.text_encoder(paths.ids[rows]).last_hidden_state
            condition = teacher.get_guidance_scale_embedding(paths.guidance[rows] - 1, embedding_dim=EMBEDDING)
        with mixed_precision():
            noise = student(noisy, times, embeds, timestep_cond=condition).sample.float()
        alpha = scheduler.alphas_cumprod[times].view(-1, 1, 1, 1)
        skip, out = (part.view(-1, 1, 1, 1) for part in scheduler.get_scalings_for_boundary_condition_discrete(times))
        error = skip * noisy + out * (noisy - (1 - alpha).sqrt() * noise) / alpha.sqrt() - paths.final[rows]
        return ((error.square() + HUBER**2).sqrt() - HUBER).mean()

    trained = train(student, loss_of, SETUP, work / "lcm.pt")
    return trained.half().float()


def main() -> None:
    """Train and write a model folder, whose other components are links to the demo's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "demo" / "work", help="checkpoints; an interrupted run resumes here")
    parser.add_argument("--output", type=Path, default=ROOT / "demo" / "model_lcm", help="model folder to write (%(default)s)")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    model = ROOT / "demo" / "model"
    teacher = StableDiffusionPipeline.from_pretrained(model, torch_dtype=torch.float32, safety_checker=None)
    student = train_student(teacher, arguments.work)
    student.half().save_pretrained(arguments.output / "unet")
    new_scheduler(teacher).save_pretrained(arguments.output / "scheduler")
    index = json.loads((model / "model_index.json").read_text()) | {"scheduler": ["diffusers", "LCMScheduler"]}
    (arguments.output / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    for component in ("text_encoder", "tokenizer", "vae"):
        link = arguments.output / component
        if not link.is_symlink():
            link.symlink_to(os.path.relpath(model / component, arguments.output))


if __name__ == "__main__":
    main()
