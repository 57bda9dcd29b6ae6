"""First stage: an AutoencoderKL that shrinks 64×64 pictures four times to latents [4, 16, 16]."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from demo.precision import mixed_precision
from demo.processes import share, trained_together
from demo.renderer import SIDE, render
from demo.scene import Scene, training_scenes
from demo.trainer import TrainingSetup, train

SETUP = TrainingSetup(steps=3600, learning_rate=1e-3, average=0.995)
BATCH = 16
KL_WEIGHT = 1e-6  # ten times more and edges turn soft
SQUARE_WEIGHT = 8  # the absolute error alone is content to leave small objects out
FIRST_LOG_VARIANCE = -4.0  # of the posterior: with a variance of one, shapes drown in noise for the first half of training


def pictures(scenes: list[Scene], draw: np.random.Generator) -> Tensor:
    """Jittered pictures of the scenes, float32 [B, 3, 64, 64] in -1..1."""
    return to_tensor(np.stack([render(scene, draw) for scene in scenes]))


def to_tensor(images: np.ndarray) -> Tensor:
    """uint8 [B, 64, 64, 3] to float32 [B, 3, 64, 64] in -1..1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()


def new_autoencoder() -> AutoencoderKL:
    """An untrained autoencoder of the demo's size (0.8 million parameters)."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        block_out_channels=(24, 48, 64),
        layers_per_block=1,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=8,
        sample_size=SIDE,
        mid_block_add_attention=False,
    )


def train_autoencoder(work: Path, processes: int = 1) -> AutoencoderKL:
    """Train on random pictures and set `scaling_factor` to one over the latents' standard deviation.

    The weights are rounded to float16, as they are shipped.
    """
    trained = trained_together(processes, train_weights, work).half().float()
    with torch.no_grad():
        draw = np.random.default_rng(2)
        latents = trained.encode(pictures(training_scenes(draw, 256), draw)).latent_dist.mean
    trained.register_to_config(scaling_factor=round(1 / float(latents.std()), 5))
    return trained


def train_weights(work: Path) -> AutoencoderKL:
    """Train the autoencoder, perhaps as one of several processes."""
    torch.manual_seed(0)
    model = new_autoencoder()
    nn.init.constant_(model.quant_conv.bias[model.config.latent_channels :], FIRST_LOG_VARIANCE)

    def loss_of(step: int) -> Tensor:
        draw = np.random.default_rng((1, step))
        batch = pictures(training_scenes(draw, BATCH), draw)[share()]
        with mixed_precision():
            posterior = model.encode(batch).latent_dist
            noise = torch.randn(BATCH, *posterior.mean.shape[1:])[share()]  # as one process draws it for the whole batch
            error = model.decode(posterior.mean + posterior.std * noise).sample.float() - batch
        return error.abs().mean() + SQUARE_WEIGHT * error.square().mean() + KL_WEIGHT * posterior.kl().mean()

    return train(model, loss_of, SETUP, work / "autoencoder.pt")
