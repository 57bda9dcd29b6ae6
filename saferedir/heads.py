"""The SafeRedir heads: from latent, timestep and prompt embedding to logits, shift, token mask and scale.

Source: R. Liu et al., arXiv 2601.08623, and the published checkpoints, whose tensor names and shapes these modules have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from engines.networks import TOKENS

ATTENTION_HEADS = 4
ATTENTION_SCALE = 1 / math.sqrt(768)  # a constant of the method, whatever the width
DROPOUT = 0.2


@dataclass(frozen=True)
class RedirectorConfig:
    """Widths of the heads; the defaults are those of the checkpoints for Stable Diffusion 1.x."""

    embed_dim: int = 768
    latent_channels: int = 4
    encoder_widths: tuple[int, int, int] = (64, 128, 256)
    latent_features: int = 512
    timestep_frequencies: int = 160
    timestep_features: int = 64
    classifier_width: int = 256
    shift_width: int = 512
    rank: int = 16
    mask_width: int = 128
    alpha_width: int = 256

    @property
    def joint_features(self) -> int:
        return self.latent_features + self.timestep_features

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]]) -> RedirectorConfig:
        """Read the widths from a checkpoint's tensor shapes; what is absent keeps its default."""
        default = cls()

        def size(name: str, axis: int, otherwise: int) -> int:
            shape = shapes.get(name, ())
            return shape[axis] if len(shape) > axis else otherwise

        first, second, third = (
            size(f"latent_encoder.{block}.conv.0.weight", 0, default.encoder_widths[block]) for block in range(3)
        )
        return cls(
            embed_dim=size("pos_embed", 2, default.embed_dim),
            latent_channels=size("latent_encoder.0.conv.0.weight", 1, default.latent_channels),
            encoder_widths=(first, second, third),
            latent_features=size("latent_encoder.5.weight", 0, default.latent_features),
            timestep_frequencies=size("t_encoder.0.weight", 1, 2 * default.timestep_frequencies) // 2,
            timestep_features=size("t_encoder.0.weight", 0, default.timestep_features),
            classifier_width=size("classifier.0.weight", 0, default.classifier_width),
            shift_width=size("token_proj.0.weight", 0, default.shift_width),
            rank=size("delta_head.down.weight", 0, default.rank),
            mask_width=size("mask_predictor.predictor.0.weight", 0, default.mask_width),
            alpha_width=size("alpha_predictor.net.0.weight", 0, default.alpha_width),
        )


class HeadsOutput(NamedTuple):
    """logits [B, 2] (class 1 is unsafe), delta [B, 77, D], mask [B, 77], alpha [B, 77, 1]."""

    logits: Tensor
    delta: Tensor
    mask: Tensor
    alpha: Tensor


class ResidualBlock(nn.Module):
    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(width_in, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width),
        )
        self.downsample = nn.Conv2d(width_in, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x) + self.downsample(x))


class _SingleQueryAttention(nn.Module):
    def __init__(self, joint: int, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(joint, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, joint: Tensor, embeds: Tensor) -> Tensor:
        values = self.value(embeds)
        scores = self.key(embeds) @ self.query(joint).unsqueeze(2) * ATTENTION_SCALE  # [B, 77, 1]
        attended = (torch.softmax(scores, dim=1) * values).sum(dim=1)
        return self.norm(attended + values.mean(dim=1))

    def at_each(self, joint: Tensor, embeds: Tensor) -> Tensor:
        """joint [N, J] and embeds [P, 77, D] in all pairs, [P, N, D]; keys and values are made once for each prompt."""
        values = self.value(embeds)
        scores = self.key(embeds) @ self.query(joint).T * ATTENTION_SCALE  # [P, 77, N]
        attended = torch.softmax(scores, dim=1).transpose(1, 2) @ values
        return self.norm(attended + values.mean(dim=1, keepdim=True))


class _CrossAttention(nn.Module):
    def __init__(self, joint: int, width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(_SingleQueryAttention(joint, width) for _ in range(ATTENTION_HEADS))
        self.fuse = nn.Sequential(nn.Linear(ATTENTION_HEADS * width, width), nn.LayerNorm(width))

    def forward(self, joint: Tensor, embeds: Tensor) -> Tensor:
        return self.fuse(torch.cat([head(joint, embeds) for head in self.heads], dim=1))

    def at_each(self, joint: Tensor, embeds: Tensor) -> Tensor:
        return self.fuse(torch.cat([cast(_SingleQueryAttention, head).at_each(joint, embeds) for head in self.heads], dim=2))


class _SelfAttention(nn.Module):
    """torch.nn.MultiheadAttention's parameters and result, in operations that every exporter knows."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x: Tensor) -> Tensor:
        width = x.shape[2]
        packed = nn.functional.linear(x, self.in_proj_weight, self.in_proj_bias)
        split = packed.view(-1, TOKENS, 3, ATTENTION_HEADS, width // ATTENTION_HEADS).permute(2, 0, 3, 1, 4)
        query, key, value = split.unbind(0)  # [B, heads, 77, width / heads]
        weights = torch.softmax(query @ key.transpose(2, 3) / math.sqrt(width // ATTENTION_HEADS), dim=-1)
        return self.out_proj((weights @ value).transpose(1, 2).reshape(-1, TOKENS, width))


class _MaskPredictor(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.attn = _SelfAttention(width)
        self.predictor = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.LayerNorm(hidden), nn.Linear(hidden, 1))

    def forward(self, embeds: Tensor) -> Tensor:
        return torch.sigmoid(self.predictor(self.attn(embeds)).squeeze(2))


class _AlphaPredictor(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, embeds: Tensor) -> Tensor:
        return torch.sigmoid(self.net(embeds))


class _LowRank(nn.Module):
    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.down = nn.Linear(width, rank, bias=False)
        self.up = nn.Linear(rank, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x)) * self.scale


class Redirector(nn.Module):
    """All heads. Attribute names are the checkpoint's tensor names."""

    def __init__(self, config: RedirectorConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or RedirectorConfig()
        width, joint = config.embed_dim, config.joint_features
        widths = (config.latent_channels, *config.encoder_widths)
        self.latent_encoder = nn.Sequential(
            *(ResidualBlock(a, b) for a, b in zip(widths, widths[1:], strict=False)),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(widths[-1], config.latent_features),
            nn.ReLU(),
            nn.Dropout(DROPOUT),
        )
        self.t_encoder = nn.Sequential(
            nn.Linear(2 * config.timestep_frequencies, config.timestep_features), nn.SiLU(), nn.LayerNorm(config.timestep_features)
        )
        self.cross_attn = _CrossAttention(joint, width)
        self.classifier = nn.Sequential(
            nn.Linear(joint + 2 * width, config.classifier_width),
            nn.ReLU(),
            nn.Dropout(DROPOUT),
            nn.Linear(config.classifier_width, 2),
        )
        self.token_proj = nn.Sequential(
            nn.Linear(joint + width, config.shift_width), nn.ReLU(), nn.Linear(config.shift_width, width)
        )
        self.delta_head = _LowRank(width, config.rank)
        self.gate_linear = nn.Linear(width, 1)
        self.pos_embed = nn.Parameter(torch.zeros(1, TOKENS, width))
        self.mask_predictor = _MaskPredictor(width, config.mask_width)
        self.alpha_predictor = _AlphaPredictor(width, config.alpha_width)
        half = config.timestep_frequencies
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.exp(-math.log(10000) * torch.arange(half) / half), persistent=False)

    def joint(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """The joint feature [B, joint_features] of latents [B, 4, H, W] and timestep [] or [B]."""
        angles = timestep.reshape(-1, 1) * self.frequencies
        timestep_features = self.t_encoder(torch.cat([angles.sin(), angles.cos()], dim=1))
        latent_features = self.latent_encoder(sample)
        if timestep.dim() == 0:
            timestep_features = timestep_features.expand(latent_features.shape[0], -1)
        return torch.cat([latent_features, timestep_features], dim=1)

    def classify(self, joint: Tensor, embeds: Tensor) -> Tensor:
        """The logits [P, N, 2] of P prompts at each of N rows: embeddings [P, 77, D], `joint` features [N, joint_features].

        What `forward` gives for all pairs of them, but for rounding; many times as fast, for keys and values are the prompts'.
        """
        pairs = (len(embeds), len(joint), -1)
        mean = embeds.mean(dim=1, keepdim=True)
        return self._logits(joint.expand(pairs), mean.expand(pairs), self.cross_attn.at_each(joint, embeds))

    def _logits(self, joint: Tensor, mean: Tensor, attended: Tensor) -> Tensor:
        return self.classifier(torch.cat([joint, mean, attended], dim=-1))

    def forward(self, sample: Tensor, timestep: Tensor, embeds: Tensor) -> HeadsOutput:
        """sample [B, 4, H, W], timestep [] or [B], conditional embeddings [B, 77, D], all float32."""
        joint = self.joint(sample, timestep)
        attended = self.cross_attn(joint, embeds)
        logits = self._logits(joint, embeds.mean(dim=1), attended)
        shift = self.delta_head(self.token_proj(torch.cat([joint, attended], dim=1))).unsqueeze(1)  # [B, 1, D]
        gate = torch.sigmoid(self.gate_linear(embeds + self.pos_embed))
        mask = self.mask_predictor(embeds)
        return HeadsOutput(logits, shift * gate * mask.unsqueeze(2), mask, self.alpha_predictor(embeds))
