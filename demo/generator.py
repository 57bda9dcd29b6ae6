"""Second stage: text encoder and UNet, trained together to predict the noise in latents of captioned pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from demo.autoencoder import to_tensor
from demo.renderer import render
from demo.trainer import TrainingSetup, save_atomically, train
from demo.vocabulary import token_ids
from demo.world import SCENES, random_caption

SETUP = TrainingSetup(steps=3500, learning_rate=1.5e-3)
REFINEMENT = TrainingSetup(steps=3000, learning_rate=8e-4)  # a second cycle, from the first one's average
BATCH = 32
PICTURES = 20_000
CAPTION_DROPOUT = 0.1  # so that the empty caption can guide


class Generator(nn.Module):
    """Text encoder (width 96, 2 layers, 0.4 million parameters) and UNet (5.4 million)."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=vocabulary,
                hidden_size=96,
                intermediate_size=384,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=77,
                projection_dim=96,
                bos_token_id=vocabulary - 2,
                eos_token_id=vocabulary - 1,
                pad_token_id=vocabulary - 1,
            )
        )
        self.unet = UNet2DConditionModel(
            sample_size=16,
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(48, 96, 128),
            down_block_types=("CrossAttnDownBlock2D",) * 3,
            up_block_types=("CrossAttnUpBlock2D",) * 3,
            cross_attention_dim=96,
            attention_head_dim=4,
            norm_num_groups=16,
        )

    def forward(self, noisy: Tensor, timesteps: Tensor, ids: Tensor) -> Tensor:
        """Predicted noise [B, 4, 16, 16]."""
        return self.unet(noisy, timesteps, self.text_encoder(ids).last_hidden_state).sample


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


def captioned_latents(autoencoder: AutoencoderKL, tokenizer: CLIPTokenizer, cache: Path) -> tuple[Tensor, Tensor]:
    """Scaled latents [PICTURES, 4, 16, 16] and caption ids [PICTURES, 77] of random scenes, half of them burning."""
    if cache.exists():
        stored = torch.load(cache, weights_only=True)
        return stored["latents"], stored["ids"]
    draw = np.random.default_rng(3)
    pool = [scene for scene in SCENES if not scene.held_out]
    latents, captions = [], []
    for _ in tqdm(range(PICTURES // 100), desc="latents", mininterval=10):
        scenes = [replace(pool[index], burning=bool(draw.random() < 0.5)) for index in draw.choice(len(pool), 100)]
        batch = to_tensor(np.stack([render(scene, draw) for scene in scenes]))
        with torch.no_grad():
            latents.append(autoencoder.encode(batch).latent_dist.mean * autoencoder.config.scaling_factor)
        captions += [random_caption(scene, draw) for scene in scenes]
    stored = {"latents": torch.cat(latents), "ids": token_ids(tokenizer, captions)}
    save_atomically(stored, cache)
    return stored["latents"], stored["ids"]


def train_generator(autoencoder: AutoencoderKL, tokenizer: CLIPTokenizer, work: Path) -> StableDiffusionPipeline:
    """Train and return the whole pipeline. The UNet's weights are rounded to float16, as they are shipped."""
    latents, ids = captioned_latents(autoencoder, tokenizer, work / "latents.pt")
    empty = token_ids(tokenizer, [""])
    alphas = new_scheduler().alphas_cumprod
    torch.manual_seed(0)
    model = Generator(len(tokenizer))

    def loss_of(step: int) -> Tensor:
        draw = torch.Generator().manual_seed(step)
        rows = torch.randint(len(latents), (BATCH,), generator=draw)
        timesteps = torch.randint(len(alphas), (BATCH,), generator=draw)
        noise = torch.randn(latents[rows].shape, generator=draw)
        dropped = torch.rand(BATCH, 1, generator=draw) < CAPTION_DROPOUT
        alpha = alphas[timesteps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * latents[rows] + (1 - alpha).sqrt() * noise
        with torch.autocast("cpu", torch.bfloat16):
            predicted = model(noisy, timesteps, torch.where(dropped, empty, ids[rows]))
        return nn.functional.mse_loss(predicted.float(), noise)

    first = train(model, loss_of, SETUP, work / "generator.pt")
    model.load_state_dict(first.state_dict())
    trained = train(model, lambda step: loss_of(SETUP.steps + step), REFINEMENT, work / "refined.pt")
    trained.unet.half().float()
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
