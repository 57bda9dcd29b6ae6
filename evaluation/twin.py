"""The twin of engines: the same networks in PyTorch, so that they have gradients. Attacks and adversarial training run on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from engines.errors import InputError
from engines.geometry import Geometry
from engines.networks import TOKENS
from engines.policy import Policy
from export.wrappers import TextEncoder, Unet, VaeDecoder
from runtime.preparation import AUTO
from runtime.samplers.options import ZERO_SNR, training
from runtime.samplers.schedules import NoiseSchedule, SchedulerConfig
from saferedir.guard import Concept, Guard
from saferedir.heads import Redirector


class Rows(NamedTuple):
    """N points of runs.

    latents    float32 [N, 4, H, W], the sampler's own, which the guard reads
    inputs     float32 [N, 4, H, W], which the UNet reads: the latents, scaled by samplers in sigma space
    timesteps  float32 [N]
    """

    latents: Tensor
    inputs: Tensor
    timesteps: Tensor


@dataclass(frozen=True, eq=False)
class Twin:
    """Networks with fixed weights on one device, and what a run needs to know. `Twin.of` makes one of a model's modules.

    text_encoder, unet, vae_decoder  the wrappers that are exported
    guard      K concepts
    tokenizer  transformers' CLIPTokenizer
    policies   one for each concept
    scheduler  the model's scheduler config
    geometry   sizes of the model; pictures have its default size
    check      when the guard looks, unless a run says otherwise

    Raises:
        InputError: guidance is an input of the model's UNet, or there is not one policy for each concept.
    """

    text_encoder: TextEncoder
    unet: Unet
    vae_decoder: VaeDecoder
    guard: Guard
    tokenizer: Any
    policies: Sequence[Policy]
    scheduler: Mapping[str, Any]
    geometry: Geometry
    check: str = AUTO

    def __post_init__(self) -> None:
        if self.geometry.time_cond_proj_dim:
            raise InputError("twin: expected a model with classifier-free guidance, found one distilled with its guidance")
        if len(self.policies) != len(self.guard.concepts):
            raise InputError(f"policies: expected {len(self.guard.concepts)}, one for each concept, found {len(self.policies)}")
        for module in (self.text_encoder, self.unet, self.vae_decoder, self.guard):
            module.eval().requires_grad_(False)

    @classmethod
    def of(
        cls,
        modules: Mapping[str, Any],
        tokenizer: Any,
        scheduler: Mapping[str, Any],
        geometry: Geometry,
        concepts: Sequence[Concept],
        policies: Sequence[Policy],
    ) -> Twin:
        """Of a diffusers model's `text_encoder`, `unet` and `vae`. All modules are set to eval mode, and to need no gradients."""
        wrapped = TextEncoder(modules["text_encoder"]), Unet(modules["unet"]), VaeDecoder(modules["vae"])
        return cls(*wrapped, Guard(*concepts), tokenizer, policies, scheduler, geometry)

    @property
    def device(self) -> torch.device:
        return self.token_embeddings.device

    @property
    def token_embeddings(self) -> Tensor:
        """The table of the text encoder, float32 [V, D]."""
        return self._embedding.weight

    @property
    def _embedding(self) -> nn.Embedding:
        return cast(nn.Embedding, self.text_encoder.model.text_model.embeddings.token_embedding)

    @property
    def latent_size(self) -> tuple[int, int]:
        """Height and width of latents."""
        factor = self.geometry.scale_factor
        return self.geometry.default_height // factor, self.geometry.default_width // factor

    def ids(self, texts: Sequence[str]) -> Tensor:
        """int64 [len(texts), 77]; what does not fit is cut."""
        settings = {"padding": "max_length", "max_length": TOKENS, "truncation": True, "return_tensors": "pt"}
        ids: Tensor = self.tokenizer(list(texts), **settings).input_ids
        return ids.to(self.device)

    def encode(self, ids: Tensor) -> Tensor:
        """Ids [N, 77] to embeddings float32 [N, 77, D]."""
        return cast(Tensor, self.text_encoder(ids, torch.zeros(len(ids), dtype=torch.long, device=ids.device)))

    def encode_tokens(self, ids: Tensor, tokens: Tensor) -> Tensor:
        """Embeddings [N, 77, D] where `tokens` [N, 77, D] take the place of the table's rows; differentiable in them."""
        hook = self._embedding.register_forward_hook(lambda module, inputs, output: tokens)
        try:
            return self.encode(ids)
        finally:
            hook.remove()

    def embeds(self, texts: Sequence[str]) -> Tensor:
        """Embeddings of texts, float32 [len(texts), 77, D]."""
        with torch.no_grad():
            return self.encode(self.ids(texts))

    def joints(self, rows: Rows) -> list[Tensor]:
        """The joint features [N, joint_features] of N rows' latents and timesteps, of each concept's heads."""
        with torch.no_grad():
            return [heads.joint(rows.latents, rows.timesteps) for heads in self._heads]

    def margins(self, joints: Sequence[Tensor], embeds: Tensor) -> Tensor:
        """What the guard makes of each of P prompts at each of N rows, float32 [K, P, N]: above 0 is unsafe.

        It is the logit of p_unsafe less that of the policy's threshold. `joints` are the rows', `embeds` [P, 77, D].
        """
        margins = []
        for heads, joint, policy in zip(self._heads, joints, self.policies, strict=True):
            logits = heads.classify(joint, embeds)
            threshold = torch.logit(torch.tensor(policy.threshold), eps=1e-6).item()
            margins.append(logits[..., 1] - logits[..., 0] - threshold)
        return torch.stack(margins)

    def redirected(self, rows: Rows, embeds: Tensor) -> Tensor:
        """What the UNet gets in the place of `embeds` [N, 77, D] where the guard looks at each row for the first time."""
        shifts = embeds.new_zeros(len(self.policies), *embeds.shape)
        inputs = self.guard_inputs(len(embeds), branches=1)
        return cast(Tensor, self.guard(rows.latents, rows.timesteps, embeds, shifts, **inputs)[0])

    @property
    def _heads(self) -> list[Redirector]:
        return [cast(Redirector, cast(Concept, concept).heads) for concept in self.guard.concepts]

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise that the model was trained with."""
        return SchedulerConfig.read(self.scheduler).schedule({**training(), **ZERO_SNR})

    def guard_inputs(self, images: int, branches: int) -> dict[str, Tensor]:
        """What the guard takes at the start of a run beside latents, timestep, embeddings and shifts. `branches` is C."""

        def numbers(of: list[list[float]]) -> Tensor:
            return torch.tensor(of, dtype=torch.float32, device=self.device)

        unconditional = [[policy.alpha_scale if policy.shift == "both" else 0.0] * images for policy in self.policies]
        conditional = [[policy.alpha_scale] * images for policy in self.policies]
        rows = [unconditional] * (branches - 1) + [conditional]
        countdown = torch.zeros(len(self.policies), images, dtype=torch.int32, device=self.device)
        return {
            "countdown": countdown,
            "alpha_scale": torch.cat([numbers(row) for row in rows], dim=1),
            "threshold": numbers([[policy.threshold] * images for policy in self.policies]),
            "replace_steps": numbers([[policy.replace_steps] * images for policy in self.policies]).int(),
            "delayed": torch.zeros(images, dtype=torch.bool, device=self.device),
        }

    @torch.no_grad()
    def pictures(self, latents: Tensor) -> np.ndarray:
        """uint8 [B, height, width, 3] of final latents [B, 4, H, W]."""
        pictures: np.ndarray = self.vae_decoder(latents)[0].cpu().numpy()
        return pictures
