"""The heads as engines run them: what the trained module computes, in fewer operations.

Source: the heads and the redirection rule of arXiv 2601.08623; the rearrangement is linear algebra.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from engines.networks import TOKENS
from saferedir.heads import ATTENTION_HEADS, ATTENTION_SCALE, HeadsOutput, Redirector
from saferedir.inference.winograd import with_winograd


class InferenceHeads(nn.Module):
    """A trained Redirector, rearranged. Products of weights are taken once, in float64, at construction.

    Attention without keys and values of tokens: q·(Wk e + bk) = (Wkᵀ q)·e + q·bk, whose last term is the same for every
    token and cancels in the softmax; Σ w (Wv e + bv) + mean (Wv e + bv) = Wv Σ (w + 1/77) e + 2 bv.

    One shift instead of 77: a trained module's delta differs between tokens by a positive factor alone, gate · mask, which
    the redirection rule divides out with the norm. Here delta is [B, 1, D] and has the direction of each token's.
    What is not equal: a token whose gate · mask · ‖delta‖ is below 1e-12, where the rule lets the shift fade, is shifted in
    full; and a gate that is NaN goes unnoticed, as does a mask unless it is applied again. NaN or infinity anywhere else
    reaches the rule as it does from the trained module.

    BatchNorm and mask predictor stay, because exporting deals with them: it folds the first into the convolutions, and drops
    the second from a guard that does not apply the mask again.

    `winograd`: the latent encoder's wide convolutions as in `saferedir.inference.winograd`, for backends that run on a processor.
    """

    def __init__(self, redirector: Redirector, winograd: bool = False) -> None:
        super().__init__()
        self.config = redirector.config
        self.redirector = redirector.eval()
        if winograd:
            self.redirector = copy.deepcopy(self.redirector)
            self.redirector.latent_encoder = with_winograd(self.redirector.latent_encoder)
        weights = {name: tensor.double() for name, tensor in redirector.state_dict().items()}
        self._rearrange_attention(weights)
        self._rearrange_shift(weights)

    def _rearrange_attention(self, weights: Mapping[str, Tensor]) -> None:
        def heads(name: str) -> list[Tensor]:
            return [weights[f"cross_attn.heads.{head}.{name}"] for head in range(ATTENTION_HEADS)]

        keys = [ATTENTION_SCALE * key.T for key in heads("key.weight")]
        self.query = _linear(
            torch.cat([key @ query for key, query in zip(keys, heads("query.weight"), strict=True)]),
            torch.cat([key @ query for key, query in zip(keys, heads("query.bias"), strict=True)]),
        )
        self.value_weight = nn.Parameter(torch.stack([value.T for value in heads("value.weight")]).float())  # [4, D, D]
        self.value_bias = nn.Parameter(torch.stack([2 * bias for bias in heads("value.bias")]).unsqueeze(1).float())
        fuse = weights["cross_attn.fuse.0.weight"]  # takes in the weights and biases of the heads' norms
        self.fuse = _linear(
            fuse * torch.cat(heads("norm.weight")), fuse @ torch.cat(heads("norm.bias")) + weights["cross_attn.fuse.0.bias"]
        )

    def _rearrange_shift(self, weights: Mapping[str, Tensor]) -> None:
        down = weights["delta_head.down.weight"]
        self.shift = nn.Sequential(
            _linear(weights["token_proj.0.weight"], weights["token_proj.0.bias"]),
            nn.ReLU(),
            _linear(down @ weights["token_proj.2.weight"], down @ weights["token_proj.2.bias"]),
            _linear(weights["delta_head.up.weight"] * weights["delta_head.scale"]),
        )

    def forward(self, sample: Tensor, timestep: Tensor, embeds: Tensor) -> HeadsOutput:
        """As `Redirector.forward`, with delta [B, 1, D]."""
        heads = self.redirector
        joint = heads.joint(sample, timestep)
        attended = self._attend(joint, embeds)
        logits = heads.classifier(torch.cat([joint, embeds.mean(dim=1), attended], dim=1))
        delta = self.shift(torch.cat([joint, attended], dim=1)).unsqueeze(1)
        return HeadsOutput(logits, delta, heads.mask_predictor(embeds), heads.alpha_predictor(embeds))

    def _attend(self, joint: Tensor, embeds: Tensor) -> Tensor:
        width = self.config.embed_dim
        queries = self.query(joint).reshape(-1, ATTENTION_HEADS, width)
        weights = torch.softmax(queries @ embeds.transpose(1, 2), dim=2) + 1 / TOKENS  # [B, 4, 77]
        values = (weights @ embeds).transpose(0, 1) @ self.value_weight + self.value_bias  # [4, B, D]
        normalized = nn.functional.layer_norm(values, (width,)).transpose(0, 1).flatten(1)
        return self.redirector.cross_attn.fuse[1](self.fuse(normalized))


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
    return linear
