"""Erase fire from the demo's UNet in the manner of ESD, to attack the result with and without a guard. `python demo/esd.py`

Source: ESD-x of Gandikota et al. 2023 (arXiv:2303.07345): the cross-attention learns to predict, for a caption with the concept,
what the untouched UNet predicts without the concept, pushed away from it. There "without" is no caption at all, for the caption is
the concept's name alone. Here captions describe whole scenes, so "without" is the same caption without the concept, the anchor of
Kumari et al. 2023 (arXiv:2303.13516). `saferedir build --unet-weights` takes the file.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if __package__ in (None, ""):
    sys.path[0] = str(ROOT)

import numpy as np  # noqa: E402
import safetensors.torch  # noqa: E402
import torch  # noqa: E402
from diffusers import DDIMScheduler, StableDiffusionPipeline  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from tqdm import tqdm  # noqa: E402

from demo.families import FAMILIES, SEEN_FAMILIES  # noqa: E402
from demo.vocabulary import token_ids  # noqa: E402
from demo.world import CONCEPTS, concept_pairs  # noqa: E402
from engines.store.atomic import replacing  # noqa: E402

STEPS, BATCH, LEARNING_RATE = 300, 4, 1e-4
GUIDANCE = 1.0  # η of the paper's Eq. 7: how far away from the concept
SAMPLED, SAMPLING_GUIDANCE = 10, 3.0  # of the student's own trajectories, whose points it learns on
TRAINED = "attn2."  # cross-attention


def erase(pipeline: StableDiffusionPipeline, concept: str, steps: int) -> dict[str, Tensor]:
    """The trained cross-attention of a UNet that has learnt to leave the concept out, by name."""
    teacher = pipeline.unet.eval().requires_grad_(False)
    student = copy.deepcopy(teacher)
    trained = [parameter.requires_grad_() for name, parameter in student.named_parameters() if TRAINED in name]
    optimiser, draw = torch.optim.Adam(trained, LEARNING_RATE), np.random.default_rng(8)
    empty = _encode(pipeline, [""] * BATCH)
    for step in tqdm(range(steps), desc="erase", mininterval=5):
        family = FAMILIES[SEEN_FAMILIES[step % len(SEEN_FAMILIES)]]
        pairs = concept_pairs([concept], family, draw, BATCH, held_out=False)
        unsafe, safe = (_encode(pipeline, [getattr(pair, kind) for pair in pairs]) for kind in ("unsafe", "safe"))
        noise = torch.randn(BATCH, 4, 16, 16, generator=torch.Generator().manual_seed(step))
        latents, timestep = _sampled(student, pipeline.scheduler, unsafe, empty, noise, int(draw.integers(SAMPLED)))
        with torch.no_grad():
            anchor = teacher(latents, timestep, safe).sample
            target = anchor - GUIDANCE * (teacher(latents, timestep, unsafe).sample - anchor)
        loss = nn.functional.mse_loss(student(latents, timestep, unsafe).sample, target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return {name: tensor for name, tensor in student.state_dict().items() if TRAINED in name}


@torch.no_grad()
def _encode(pipeline: StableDiffusionPipeline, texts: Sequence[str]) -> Tensor:
    embeds: Tensor = pipeline.text_encoder(token_ids(pipeline.tokenizer, [*texts])).last_hidden_state
    return embeds


@torch.no_grad()
def _sampled(
    student: nn.Module, config: DDIMScheduler, embeds: Tensor, empty: Tensor, noise: Tensor, row: int
) -> tuple[Tensor, Tensor]:
    """The student's latents before a row of a run, and the row's timestep."""
    scheduler = DDIMScheduler.from_config(config.config)
    scheduler.set_timesteps(SAMPLED)
    latents = noise
    for timestep in scheduler.timesteps[:row]:
        free, guided = student(torch.cat([latents] * 2), timestep, torch.cat([empty, embeds])).sample.chunk(2)
        latents = scheduler.step(free + SAMPLING_GUIDANCE * (guided - free), timestep, latents).prev_sample
    return latents, scheduler.timesteps[row]


def main() -> None:
    """Train and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "demo" / "model", help="diffusers folder (%(default)s)")
    parser.add_argument("--concept", choices=CONCEPTS, default="fire", help="what to erase (%(default)s)")
    parser.add_argument("--steps", type=int, default=STEPS, help="of the optimiser (%(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="file to write, .safetensors")
    arguments = parser.parse_args()
    pipeline = StableDiffusionPipeline.from_pretrained(arguments.model, torch_dtype=torch.float32)
    tensors = erase(pipeline, arguments.concept, arguments.steps)
    with replacing(arguments.output) as temporary:
        temporary.write_bytes(safetensors.torch.save({name: tensor.half().contiguous() for name, tensor in tensors.items()}))


if __name__ == "__main__":
    main()
