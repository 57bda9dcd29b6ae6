"""Third stage: a UNet that learns to predict the noise in latents of captioned pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
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
from demo.precision import mixed_precision
from demo.processes import share, trained_together
from demo.scene import Scene, training_scenes
from demo.text_encoder import WIDTH
from demo.trainer import TrainingSetup, save_atomically, train
from demo.vocabulary import token_ids

SETUP = TrainingSetup(steps=6_500, learning_rate=1.5e-3, muon_rate=4e-3, average=0.999)
BATCH = 64
PICTURES = 40_000
ENCODED = 50  # pictures at a time
CAPTION_DROPOUT = 0.1  # so that the empty caption can guide
LARGEST_SNR = 5.0  # γ of Min-SNR (Hang et al. 2023, section 3.4)


class Generator(nn.Module):
    """A text encoder, which stays as it is, and a UNet (4.4 million parameters).

    Attention at 16×16 has one head: with three a step takes 1.8 times as long as without, with one 1.4 times.
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
            down_block_types=("CrossAttnDownBlock2D",) * 3,
            up_block_types=("CrossAttnUpBlock2D",) * 3,
            cross_attention_dim=WIDTH,
            attention_head_dim=(1, 3, 3),  # diffusers takes it as the numbers of heads
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
    """A batch for each step, drawn from the step's number alone. A picture gets a new caption each time it is drawn.

    `rows` are those of this process.
    """

    latents: Tensor
    scenes: Sequence[Scene]
    tokenizer: CLIPTokenizer
    timesteps: int
    rows: slice = field(default_factory=share)

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        """Scaled `latents` and `noise` float32 [B, 4, 16, 16], `timesteps` int64 [B], caption `ids` int64 [B, 77], some empty."""
        draw, words = torch.Generator().manual_seed(step), np.random.default_rng((5, step))
        pictured = torch.randint(len(self.latents), (BATCH,), generator=draw)
        captions = [random_caption(self.scenes[row], words) for row in pictured.tolist()]
        timesteps = torch.randint(self.timesteps, (BATCH,), generator=draw)
        noise = torch.randn((BATCH, *self.latents.shape[1:]), generator=draw)
        dropped = (torch.rand(BATCH, 1, generator=draw) < CAPTION_DROPOUT).flatten().tolist()
        captions = ["" if empty else caption for caption, empty in zip(captions, dropped, strict=True)][self.rows]
        return {
            "latents": self.latents[pictured[self.rows]],
            "noise": noise[self.rows],
            "timesteps": timesteps[self.rows],
            "ids": token_ids(self.tokenizer, captions),
        }


@dataclass(frozen=True)
class Means:
    """What trains the UNet: `processes` that share each batch, PyTorch's `device`, whether by torch.compile.

    `workers` are processes that draw the batches of each.
    """

    device: str = "cpu"
    processes: int = 1
    workers: int = 0
    compiled: bool = False


def train_generator(
    autoencoder: AutoencoderKL, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, work: Path, means: Means
) -> StableDiffusionPipeline:
    """Train and return the whole pipeline. The UNet's weights are rounded to float16, as they are shipped."""
    latents = scaled_latents(autoencoder, work / "latents.pt")
    trained = trained_together(means.processes, train_unet, text_encoder, tokenizer, latents, work, means)
    return assembled(trained.cpu(), autoencoder, tokenizer)


def train_unet(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, latents: Tensor, work: Path, means: Means) -> Generator:
    """Train the UNet, perhaps as one of several processes."""
    scenes = training_scenes(np.random.default_rng(3), len(latents))
    torch.manual_seed(0)
    model = Generator(text_encoder).to(means.device)
    alphas = new_scheduler().alphas_cumprod.to(means.device)
    batches = Batches(latents, scenes, tokenizer, len(alphas))
    predict = torch.compile(model) if means.compiled else model
    return train(model, noise_loss(predict, alphas, batches, means), SETUP, work / "generator.pt")


def noise_loss(predict: Callable[..., Tensor], alphas: Tensor, batches: Batches, means: Means) -> Callable[[int], Tensor]:
    """What gives each step's loss: the squared error of the predicted noise, weighted by Min-SNR. Steps are asked for in order."""
    drawn: Iterator[dict[str, Tensor]] | None = None

    def loss_of(step: int) -> Tensor:
        nonlocal drawn
        if drawn is None:
            steps = range(step, SETUP.steps)
            drawn = iter(DataLoader(batches, batch_size=None, sampler=steps, num_workers=means.workers))  # type: ignore[arg-type]
        batch = {name: values.to(means.device) for name, values in next(drawn).items()}
        alpha = alphas[batch["timesteps"]].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * batch["latents"] + (1 - alpha).sqrt() * batch["noise"]
        with mixed_precision(means.device):
            predicted = predict(noisy, batch["timesteps"], batch["ids"])
        snr = alpha / (1 - alpha)
        return ((snr.clamp(max=LARGEST_SNR) / snr) * (predicted.float() - batch["noise"]).square()).mean()

    return loss_of


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
