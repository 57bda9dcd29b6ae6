"""Third stage: trajectories of prompt pairs through the finished generator, and the heads that learn from them."""

from __future__ import annotations

import difflib
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from torch import Tensor
from tqdm import tqdm

from demo.trainer import TrainingSetup, save_atomically, train
from demo.vocabulary import token_ids
from demo.world import prompt_pairs
from engines.canary import Canary
from saferedir.heads import Redirector, RedirectorConfig
from saferedir.metadata import Metadata
from training.losses import LossWeights, Records, classifier_figures, losses, weighted

SETUP = TrainingSetup(steps=1500, learning_rate=1e-3, average=0.99)
BATCH = 64
ROUNDS = 12
PAIRS = 28  # in a round: 56 trajectories
KEPT_STEPS = 12  # of each trajectory
STEPS, GUIDANCE = (20, 25, 30, 50), (4.0, 9.0)  # drawn for each round, so that the guard is not tied to one setting
CONFIG = RedirectorConfig(embed_dim=96, encoder_widths=(32, 64, 96))
CANARIES = prompt_pairs(np.random.default_rng(3), 2, held_out=True)
# `record` keeps latents before a step, so the guard never sees a finished one: it is not trained for the final check.
METADATA = Metadata(
    canaries=[
        Canary(text, unsafe, seed)
        for seed, (_, safe, burning) in enumerate(CANARIES)
        for text, unsafe in ((safe, False), (burning, True))
    ],
    final_check=False,
)


@torch.no_grad()
def sample(
    pipeline: StableDiffusionPipeline, embeds: Tensor, empty: Tensor, noise: Tensor, steps: int, guidance: float
) -> tuple[Tensor, Tensor]:
    """DDIM trajectories: latents [steps, B, 4, 16, 16] before each step, and the timesteps [steps]."""
    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(steps)
    latents, path = noise, []
    both = torch.cat([empty.expand_as(embeds), embeds])
    for timestep in scheduler.timesteps:
        path.append(latents)
        free, guided = pipeline.unet(torch.cat([latents] * 2), timestep, both).sample.chunk(2)
        latents = scheduler.step(free + guidance * (guided - free), timestep, latents).prev_sample
    return torch.stack(path), scheduler.timesteps.float()


def correspond(safe: list[int], unsafe: list[int]) -> tuple[list[int], list[bool]]:
    """For each token of the unsafe prompt: its counterpart in the safe one, and whether the safe one lacks it."""
    places, lacking = list(range(len(unsafe))), [True] * len(unsafe)
    for block in difflib.SequenceMatcher(None, safe, unsafe, autojunk=False).get_matching_blocks():
        for offset in range(block.size):
            places[block.b + offset], lacking[block.b + offset] = block.a + offset, False
    return [min(place, len(safe) - 1) for place in places], lacking


@torch.no_grad()
def record(pipeline: StableDiffusionPipeline, cache: Path) -> Records:
    """Trajectories of both prompts of ROUNDS · PAIRS pairs, from scenes that are not held out."""
    if cache.exists():
        return Records(**torch.load(cache, weights_only=True))
    draw, tokenizer = np.random.default_rng(4), pipeline.tokenizer
    encode = lambda ids: pipeline.text_encoder(ids).last_hidden_state  # noqa: E731
    empty = encode(token_ids(tokenizer, [""]))
    parts: dict[str, list[Tensor]] = {name: [] for name in Records.__dataclass_fields__}
    for number in tqdm(range(ROUNDS), desc="trajectories"):
        pairs = prompt_pairs(draw, PAIRS, held_out=False)
        safe, unsafe = (
            token_ids(tokenizer, texts)
            for texts in ([safe_text for _, safe_text, _ in pairs], [unsafe_text for _, _, unsafe_text in pairs])
        )
        safe_embeds, unsafe_embeds = encode(safe), encode(unsafe)
        noise = torch.randn(2 * PAIRS, 4, 16, 16, generator=torch.Generator().manual_seed(number))
        path, timesteps = sample(
            pipeline, torch.cat([safe_embeds, unsafe_embeds]), empty, noise, int(draw.choice(STEPS)), float(draw.uniform(*GUIDANCE))
        )
        if number % 2:  # as in samplers that work in sigma space, such as LMS: the guard sees the sample before input scaling
            path = path / pipeline.scheduler.alphas_cumprod[timesteps.long()].sqrt().view(-1, 1, 1, 1, 1)
        aligned = [correspond(a.tolist(), b.tolist()) for a, b in zip(safe, unsafe, strict=True)]
        places = torch.tensor([place for place, _ in aligned])
        kept = torch.from_numpy(np.sort(draw.choice(len(timesteps), KEPT_STEPS, replace=False)))
        parts["latents"].append(path[kept].flatten(0, 1))
        parts["timesteps"].append(timesteps[kept].repeat_interleave(2 * PAIRS))
        parts["unsafe"].append((torch.arange(2 * PAIRS) >= PAIRS).repeat(KEPT_STEPS))
        parts["pair"].append((torch.arange(2 * PAIRS) % PAIRS + number * PAIRS).repeat(KEPT_STEPS))
        parts["safe_embeds"].append(safe_embeds)
        parts["unsafe_embeds"].append(unsafe_embeds)
        parts["target_shift"].append(torch.gather(safe_embeds, 1, places.unsqueeze(2).expand_as(safe_embeds)) - unsafe_embeds)
        parts["differs"].append(torch.tensor([lacking for _, lacking in aligned]))
    stored = {name: torch.cat(tensors) for name, tensors in parts.items()}
    save_atomically(stored, cache)
    return Records(**stored)


def train_redirector(pipeline: StableDiffusionPipeline, work: Path) -> Redirector:
    """Train on four pairs of five and print the classifier's figures on the fifth."""
    records = record(pipeline, work / "trajectories.pt")
    held_back = records.pair % 5 == 0
    seen, unseen = torch.nonzero(~held_back).flatten(), torch.nonzero(held_back).flatten()
    torch.manual_seed(0)
    model = Redirector(CONFIG)

    def loss_of(step: int) -> Tensor:
        rows = seen[torch.randint(len(seen), (BATCH,), generator=torch.Generator().manual_seed(step))]
        output = model(records.latents[rows], records.timesteps[rows], records.embeds(rows))
        return weighted(losses(output, records, rows), LossWeights())

    trained = train(model, loss_of, SETUP, work / "redirector.pt")
    figures = classifier_figures(trained, records, unseen)
    print("classifier on unseen pairs: " + ", ".join(f"{name} {value:.4f}" for name, value in figures.items()))
    return trained
