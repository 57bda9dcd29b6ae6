"""Third stage: a UNet that learns to predict the noise in latents of captioned pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from demo.autoencoder import pictures
from demo.families import random_caption
from demo.scene import training_scenes
from demo.text_encoder import WIDTH
from demo.trainer import TrainingSetup, save_atomically, train
from demo.vocabulary import token_ids

SETUP = TrainingSetup(steps=12_000, learning_rate=1.2e-3, average=0.999)
BATCH = 32
PICTURES = 40_000
ENCODED = 50  # pictures at a time
CAPTION_DROPOUT = 0.1  # so that the empty caption can guide


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


def train_generator(
    autoencoder: AutoencoderKL, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, work: Path, compiled: bool = False
) -> StableDiffusionPipeline:
    """Train and return the whole pipeline. The UNet's weights are rounded to float16, as they are shipped.

    A picture gets a new caption each time it is drawn: there are far more captions than steps. Timesteps are drawn in proportion
    to themselves, for captions decide while the noise is strong. `compiled` runs the forward and backward pass through
    torch.compile, which needs a C++ compiler.
    """
    latents, scenes = scaled_latents(autoencoder, work / "latents.pt"), training_scenes(np.random.default_rng(3), PICTURES)
    empty = token_ids(tokenizer, [""])
    alphas = new_scheduler().alphas_cumprod
    torch.manual_seed(0)
    model = Generator(text_encoder)
    predict = torch.compile(model) if compiled else model

    def loss_of(step: int) -> Tensor:
        draw, words = torch.Generator().manual_seed(step), np.random.default_rng((5, step))
        rows = torch.randint(len(latents), (BATCH,), generator=draw)
        ids = token_ids(tokenizer, [random_caption(scenes[row], words) for row in rows.tolist()])
        timesteps = (len(alphas) * torch.rand(BATCH, generator=draw).sqrt()).long().clamp(max=len(alphas) - 1)
        noise = torch.randn(latents[rows].shape, generator=draw)
        dropped = torch.rand(BATCH, 1, generator=draw) < CAPTION_DROPOUT
        alpha = alphas[timesteps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * latents[rows] + (1 - alpha).sqrt() * noise
        with torch.autocast("cpu", torch.bfloat16):
            predicted = predict(noisy, timesteps, torch.where(dropped, empty, ids))
        return nn.functional.mse_loss(predicted.float(), noise)

    trained = train(model, loss_of, SETUP, work / "generator.pt")
    return assembled(trained, autoencoder, tokenizer)


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
