"""Whether a UNet predicts the noise or v (Salimans and Ho 2022, arXiv:2202.00512): no file says, and its output shows."""

from __future__ import annotations

from typing import Any

import torch

from engines.networks import LATENT_CHANNELS, TOKENS

LAST_TIMESTEP = 999
EPSILON, V = "epsilon", "v_prediction"
# Correlation of input and output: near 1 for noise, near 0 for v. Between these it shows neither.
AT_MOST_OF_V, AT_LEAST_OF_EPSILON = 0.5, 0.75


def shown_prediction(unet: Any) -> str | None:
    """`epsilon`, `v_prediction`, or None where the output shows neither.

    At the last timestep the latents are almost nothing but noise. Predicting the noise is then returning the input, while
    v = √ᾱ·ε − √(1−ᾱ)·x0 is almost −x0, which does not depend on it.
    """
    correlation = noise_correlation(unet)
    if correlation >= AT_LEAST_OF_EPSILON:
        return EPSILON
    return V if correlation <= AT_MOST_OF_V else None


@torch.no_grad()
def noise_correlation(unet: Any) -> float:
    """Correlation of pure noise and what a UNet makes of it at the last timestep, without a prompt."""
    noise = torch.randn(2, LATENT_CHANNELS, 32, 32, generator=torch.Generator().manual_seed(0))
    prompt = torch.zeros(2, TOKENS, unet.config.cross_attention_dim)
    output = unet(noise, LAST_TIMESTEP, prompt, return_dict=False)[0]
    return torch.corrcoef(torch.stack([noise.flatten(), output.flatten()]))[0, 1].item()
