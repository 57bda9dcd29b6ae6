"""The precision that the demo is trained in."""

from __future__ import annotations

from functools import cache

import torch

from evaluation.device import checked_device, has_bfloat16


@cache  # asked for at every step of a training
def training_precision(device: str) -> str:
    """bfloat16, or float32 on a device that would emulate it."""
    return "bfloat16" if has_bfloat16(checked_device(device)) else "float32"


def mixed_precision(device: str = "cpu") -> torch.autocast:
    """PyTorch's automatic mixed precision, which is off in float32."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=training_precision(device) == "bfloat16")
