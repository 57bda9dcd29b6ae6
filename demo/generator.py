"""Third stage: a UNet that learns to predict the noise in latents of captioned pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from demo.autoencoder import pictures
from demo.families import random_caption
from demo.scene import Scene, training_scenes
from demo.text_encoder import WIDTH
from demo.trainer import TrainingSetup, save_atomically, train
from demo.vocabulary import token_ids

BATCH = 32
TIMESTEPS = 1000
PICTURES = 40_000
ENCODED = 50  # pictures at a time
CAPTION_DROPOUT = 0.1  # so that the empty caption can guide


@dataclass(frozen=True)
class Phase:
    """A part of the training. See `Batches` for `power`."""

    name: str
    setup: TrainingSetup
    power: float


# Captions decide while the noise is strong, edges while it is weak.
PHASES = (
    Phase("generator", TrainingSetup(steps=12_000, learning_rate=1.2e-3, average=0.999), power=0.5),
    Phase("refined", TrainingSetup(steps=10_000, learning_rate=8e-4, average=0.999), power=1.0),
)


class Generator(nn.Module):
    """A text encoder, which stays as it is, and a UNet (4.1 million parameters).

    Attention at 8×8 and 4×4 only: at 16×16 it would make a step 1.8 times longer.
    """

    def __init__(self, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.unet = UNet2DConditionModel(
            sample_size=16,
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(64, 96, 96),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=WIDTH,
            attention_head_dim=3,  # diffusers takes it as the number of heads
            norm_num_groups=16,
        )
        self.unet.set_attn_processor(AttnProcessor())  # on a CPU torch's fused attention makes a step 1.4 times longer
        self.unet.to(memory_format=torch.channels_last)  # a step takes 0.84 of the time

    def forward(self, noisy: Tensor, timesteps: Tensor, ids: Tensor) -> Tensor:
        """Predicted noise [B, 4, 16, 16]."""
        with torch.no_grad():
            embeds = self.text_encoder(ids).last_hidden_state
        return self.unet(noisy.contiguous(memory_format=torch.channels_last), timesteps, embeds).sample


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion 1.x's schedule and options, with those that a PNDM made from this config reads."""
    return DDIMScheduler.from_config(
        {
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "steps_offset": 1,
            "set_alpha_to_one": False,
            "clip_sample": False,
            "skip_prk_steps": True,
        }
    )


def scaled_latents(autoencoder: AutoencoderKL, cache: Path) -> Tensor:
    """Scaled latents float32 [PICTURES, 4, 16, 16] of `training_scenes`, in their order."""
    if not cache.exists():
        draw, parts = np.random.default_rng(4), []
        scenes = training_scenes(np.random.default_rng(3), PICTURES)
        for start in tqdm(range(0, PICTURES, ENCODED), desc="latents", mininterval=10):
            with torch.no_grad():
                latents = autoencoder.encode(pictures(scenes[start : start + ENCODED], draw)).latent_dist.mean
            parts.append((latents * autoencoder.config.scaling_factor).half())
        save_atomically(torch.cat(parts), cache)
    stored: Tensor = torch.load(cache, weights_only=True)
    return stored.float()


@dataclass(frozen=True)
class Batches:
    """A batch for each step of a phase, drawn from the step's number alone. A picture gets a new caption each time it is drawn.

    A timestep is T·u^`power` with u uniform: 1 draws all alike, 1/2 in proportion to themselves.
    """

    latents: Tensor
    scenes: Sequence[Scene]
    tokenizer: CLIPTokenizer
    power: float
    first: int  # of the numbers that seed the draws

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        """Scaled `latents` and `noise` float32 [B, 4, 16, 16], `timesteps` int64 [B], caption `ids` int64 [B, 77], some empty."""
        number = self.first + step
        draw, words = torch.Generator().manual_seed(number), np.random.default_rng((5, number))
        rows = torch.randint(len(self.latents), (BATCH,), generator=draw)
        captions = [random_caption(self.scenes[row], words) for row in rows.tolist()]
        timesteps = (TIMESTEPS * torch.rand(BATCH, generator=draw) ** self.power).long().clamp(max=TIMESTEPS - 1)
        noise = torch.randn(self.latents[rows].shape, generator=draw)
        dropped = (torch.rand(BATCH, 1, generator=draw) < CAPTION_DROPOUT).flatten().tolist()
        ids = token_ids(self.tokenizer, ["" if empty else caption for caption, empty in zip(captions, dropped, strict=True)])
        return {"latents": self.latents[rows], "noise": noise, "timesteps": timesteps, "ids": ids}


@dataclass(frozen=True)
class Means:
    """What trains the UNet: PyTorch's `device`, `workers` processes that draw batches, and whether by torch.compile."""

    device: str = "cpu"
    workers: int = 0
    compiled: bool = False


def train_generator(
    autoencoder: AutoencoderKL, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, work: Path, means: Means
) -> StableDiffusionPipeline:
    """Train and return the whole pipeline. The UNet's weights are rounded to float16, as they are shipped."""
    latents, scenes = scaled_latents(autoencoder, work / "latents.pt"), training_scenes(np.random.default_rng(3), PICTURES)
    torch.manual_seed(0)
    model = Generator(text_encoder).to(means.device)
    first = 0
    for phase in PHASES:
        batches = Batches(latents, scenes, tokenizer, phase.power, first)
        model.load_state_dict(_train_phase(model, batches, phase, work, means).state_dict())
        first += phase.setup.steps
    return assembled(model.eval().cpu(), autoencoder, tokenizer)


def _train_phase(model: Generator, batches: Batches, phase: Phase, work: Path, means: Means) -> Generator:
    """The averaged model after a phase."""
    alphas = new_scheduler().alphas_cumprod.to(means.device)
    predict = torch.compile(model) if means.compiled else model
    drawn: Iterator[dict[str, Tensor]] | None = None

    def loss_of(step: int) -> Tensor:
        nonlocal drawn
        if drawn is None:
            steps = range(step, phase.setup.steps)
            drawn = iter(DataLoader(batches, batch_size=None, sampler=steps, num_workers=means.workers))  # type: ignore[arg-type]
        batch = {name: values.to(means.device) for name, values in next(drawn).items()}
        alpha = alphas[batch["timesteps"]].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * batch["latents"] + (1 - alpha).sqrt() * batch["noise"]
        with torch.autocast(torch.device(means.device).type, torch.bfloat16):
            predicted = predict(noisy, batch["timesteps"], batch["ids"])
        return nn.functional.mse_loss(predicted.float(), batch["noise"])

    return train(model, loss_of, phase.setup, work / f"{phase.name}.pt")


def assembled(trained: Generator, autoencoder: AutoencoderKL, tokenizer: CLIPTokenizer) -> StableDiffusionPipeline:
    """The pipeline of a trained generator, its weights rounded as they are shipped."""
    trained.unet.half().float().to(memory_format=torch.contiguous_format)
    return StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=trained.text_encoder,
        tokenizer=tokenizer,
        unet=trained.unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
