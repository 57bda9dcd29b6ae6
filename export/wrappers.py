"""The networks to export: thin modules with exactly the tensors of `engines.networks`. The guard is `saferedir.guard`."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from diffusers.models.unets.unet_2d_blocks import CrossAttnDownBlock2D, DownBlock2D
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
    """sample [B, 4, H, W], timestep [B], encoder_hidden_states [CB, 77, D] → noise_pred [CB, 4, H, W], all float32.

    The branches of guidance differ in the prompt alone. One that was distilled with its guidance also takes timestep_cond [B, G].
    """

    def __init__(self, model: UNet2DConditionModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, timestep_cond: Tensor | None = None
    ) -> Tensor:
        rows = encoder_hidden_states.shape[0]
        condition = None if timestep_cond is None else in_each_branch(timestep_cond, rows)
        given = in_each_branch(sample, rows), in_each_branch(timestep, rows), encoder_hidden_states
        return self.model(*given, timestep_cond=condition, return_dict=False)[0]

    def for_inference(self) -> Unet:
        """The same in less time: what comes before the first look at the prompt is computed once for all branches."""
        return _OncePerImageUnet(self.model)


def in_each_branch(x: Tensor, rows: int) -> Tensor:
    """[B, …] → [rows, …], the images of one branch after those of another."""
    return x.unsqueeze(0).expand(rows // x.shape[0], *[-1] * x.dim()).flatten(0, 1)


class _OncePerImage(nn.Module):
    """A layer whose rows are equal in all branches. Before a call, `images` must be set to B."""

    images: int

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *tensors: Tensor, **options: Any) -> Tensor:
        """Tensors [CB, …] → [CB, …]."""
        return in_each_branch(self.layer(*(tensor[: self.images] for tensor in tensors), **options), tensors[0].shape[0])


class _OncePerImageUnet(Unet):
    """`Unet` whose layers before the first cross-attention are called once for each image."""

    def __init__(self, model: UNet2DConditionModel) -> None:
        super().__init__(model)
        self.once: list[_OncePerImage] = []
        for path in _before_the_prompt(model):
            once = _OncePerImage(model.get_submodule(path))
            self.once.append(once)
            self.model = _with_layer(self.model, path.split("."), once)

    def forward(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, timestep_cond: Tensor | None = None
    ) -> Tensor:
        for layer in self.once:
            layer.images = sample.shape[0]
        return super().forward(sample, timestep, encoder_hidden_states, timestep_cond)


def _before_the_prompt(model: UNet2DConditionModel) -> Iterator[str]:
    """Names of the layers that no prompt has reached and that take the time there: residual blocks and one self-attention."""
    for place, block in enumerate(model.down_blocks):
        if isinstance(block, CrossAttnDownBlock2D):
            yield f"down_blocks.{place}.resnets.0"
            if not block.attentions[0].transformer_blocks[0].only_cross_attention:
                yield f"down_blocks.{place}.attentions.0.transformer_blocks.0.attn1"
            return
        if not isinstance(block, DownBlock2D):
            return
        yield from (f"down_blocks.{place}.resnets.{index}" for index in range(len(block.resnets)))


def _with_layer(module: nn.Module, path: Sequence[str], layer: nn.Module) -> Any:
    """The module with another layer at `path`; all others are shared."""
    changed, (name, *rest) = copy.copy(module), path
    changed._modules = {**module._modules, name: _with_layer(module.get_submodule(name), rest, layer) if rest else layer}
    return changed


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
        finite = torch.isfinite(guided.sum(dim=(1, 2, 3)) + following.sum(dim=(0, 2, 3, 4)))
        return next_state, scaled, finite
