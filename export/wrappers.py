"""The networks to export: thin modules with exactly the tensors of `engines.networks`. The guard is `saferedir.guard`."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel


class TextEncoder(nn.Module):
    """input_ids int64 [CB, 77], clip_skip int64 [CB] → text_embeddings float32 [CB, 77, D].

    They are the hidden state with `clip_skip` layers fewer, normalised as the last one is (diffusers StableDiffusionPipeline).
    """

    def __init__(self, model: CLIPTextModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, clip_skip: Tensor) -> Tensor:
        states = self.model(input_ids, output_hidden_states=True).hidden_states  # before the first layer, and after each
        rows = input_ids.shape[0]
        place = (len(states) - 1 - clip_skip) * rows + torch.arange(rows, device=clip_skip.device)
        return self.model.text_model.final_layer_norm(torch.cat(states).index_select(0, place))


class Unet(nn.Module):
    """sample [CB, 4, H, W], timestep [CB], encoder_hidden_states [CB, 77, D] → noise_pred [CB, 4, H, W], all float32.

    A UNet that was distilled with its guidance also takes timestep_cond [CB, G].
    """

    def __init__(self, model: UNet2DConditionModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, timestep_cond: Tensor | None = None
    ) -> Tensor:
        return self.model(sample, timestep, encoder_hidden_states, timestep_cond=timestep_cond, return_dict=False)[0]


class VaeDecoder(nn.Module):
    """latent float32 [B, 4, H, W] → images uint8 [B, f·H, f·W, 3], rounded as diffusers' VaeImageProcessor does.

    `finite` bool [B] tells whether the decoded values were, for a uint8 cannot.
    """

    def __init__(self, model: AutoencoderKL | AutoencoderTiny) -> None:
        super().__init__()
        self.model = model

    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        decoded = self.model.decode(latent / self.model.config.scaling_factor, return_dict=False)[0]
        grey = (decoded / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1) * 255
        return grey.round().to(torch.uint8), torch.isfinite(decoded.sum(dim=(1, 2, 3)))


class SamplerStep(nn.Module):
    """One row of a sampler's recurrence for each image (see `runtime.samplers.recurrence`).

    [state'; model input] = matrix · [state; guided prediction; noise], where guided m = m_uncond + guidance_scale · (m_cond −
    m_uncond), or m itself without guidance. state [S, B, 4, H, W], noise_pred [CB, 4, H, W], noise [B, 4, H, W], matrix
    [B, S+1, S+2], guidance_scale [B], all float32. `finite` bool [B]: prediction and next state were.
    """

    def forward(
        self, state: Tensor, noise_pred: Tensor, noise: Tensor, matrix: Tensor, guidance_scale: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        branches = noise_pred.reshape(-1, *noise.shape)  # [C, B, 4, H, W]
        guided = branches[0] + guidance_scale.reshape(-1, 1, 1, 1) * (branches[-1] - branches[0])
        known = torch.cat([state, guided.unsqueeze(0), noise.unsqueeze(0)])  # [S+2, B, 4, H, W]
        following = (matrix @ known.flatten(2).transpose(0, 1)).transpose(0, 1).reshape(-1, *noise.shape)  # [S+1, B, 4, H, W]
        next_state, scaled = following[:-1], following[-1]
        model_input = scaled.unsqueeze(0).expand(branches.shape).reshape(noise_pred.shape)
        finite = torch.isfinite(guided.sum(dim=(1, 2, 3)) + following.sum(dim=(0, 2, 3, 4)))
        return next_state, model_input, finite
