"""What a model's output says, as weights: of a sample x = α·x_0 + σ·ε with α² + σ² = 1 (Salimans and Ho 2022, Appendix D).

`x` and `output` are the weights of sample and model output among [state; model output; ξ]; so are the results. Each is made of
the two directly: to go through the other would divide by α or σ, which loses digits where they are tiny.
"""

from __future__ import annotations

import numpy as np

from runtime.samplers.options import EPSILON, V_PREDICTION

Weights = np.ndarray
Scale = float | np.ndarray


def clean(prediction_type: str, alpha: Scale, sigma: Scale, x: Weights, output: Weights) -> Weights:
    """x̂_0."""
    if prediction_type == EPSILON:
        return np.asarray((x - sigma * output) / alpha)
    if prediction_type == V_PREDICTION:
        return np.asarray(alpha * x - sigma * output)
    return output


def noise(prediction_type: str, alpha: Scale, sigma: Scale, x: Weights, output: Weights) -> Weights:
    """ε̂."""
    if prediction_type == EPSILON:
        return output
    if prediction_type == V_PREDICTION:
        return np.asarray(alpha * output + sigma * x)
    return np.asarray((x - alpha * output) / sigma)
