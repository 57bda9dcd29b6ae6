"""The networks to export: thin modules with exactly the tensors of `engines.networks`. The guard is `saferedir.guard`."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel


class TextEncoder(nn.Module):
    """input_ids int64 [CB, 77] → text_embeddings float32 [CB, 77, D], the last hidden state."""

    def __init__(self, model: CLIPTextModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.model(input_ids).last_hidden_state


class Unet(nn.Module):
    """sample [CB, 4, H, W], timestep [], encoder_hidden_states [CB, 77, D] → noise_pred [CB, 4, H, W], all float32."""

    def __init__(self, model: UNet2DConditionModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        return self.model(sample, timestep, encoder_hidden_states, return_dict=False)[0]


class VaeDecoder(nn.Module):
    """latent float32 [B, 4, H, W] → images uint8 [B, f·H, f·W, 3], rounded as diffusers' VaeImageProcessor does.

    `finite` bool [B] tells whether the decoded values were, for a uint8 cannot.
    """

    def __init__(self, model: AutoencoderKL) -> None:
        super().__init__()
        self.model = model

    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        decoded = self.model.decode(latent / self.model.config.scaling_factor, return_dict=False)[0]
        grey = (decoded / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1) * 255
        return grey.round().to(torch.uint8), torch.isfinite(decoded.sum(dim=(1, 2, 3)))


class SamplerStep(nn.Module):
    """Applies one row [p, q, s, c_next, a_0 … a_HX, b_0 … b_HE] of a sampler's table (see `runtime.samplers.tables`).

    guided m = m_uncond + guidance_scale · (m_cond − m_uncond), or m itself without guidance;
    ε = p·x + q·m; next x = Σ_j a_j·x_{−j} + Σ_k b_k·ε_{−k} + s·noise. Histories are newest first. float32 throughout.
    """

    def forward(
        self,
        sample: Tensor,
        noise_pred: Tensor,
        noise: Tensor,
        history_x: Tensor,
        history_eps: Tensor,
        coefficients: Tensor,
        guidance_scale: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        branches = noise_pred.reshape(-1, *sample.shape)  # [C, B, 4, H, W]
        guided = branches[0] + guidance_scale * (branches[-1] - branches[0])
        samples = torch.cat([sample.unsqueeze(0), history_x])
        predictions = torch.cat([(coefficients[0] * sample + coefficients[1] * guided).unsqueeze(0), history_eps])
        terms = torch.cat([samples, predictions]) * coefficients[4:].reshape(-1, 1, 1, 1, 1)
        next_sample = terms.sum(dim=0) + coefficients[2] * noise
        scaled = (coefficients[3] * next_sample).unsqueeze(0).expand(branches.shape).reshape(noise_pred.shape)
        finite = torch.isfinite(guided.sum(dim=(1, 2, 3)) + next_sample.sum(dim=(1, 2, 3)))
        return next_sample, samples[:-1], predictions[:-1], scaled, finite
