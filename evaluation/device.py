"""The device that PyTorch runs networks on."""

from __future__ import annotations

import torch

from engines.errors import InputError
from engines.printable import shown


def checked_device(name: str) -> torch.device:
    """The device of that name. Raises InputError where PyTorch has none such."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"device: expected one that PyTorch has here, as cpu or cuda, found {shown(name)} ({reason})") from None
    return device


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies in bfloat16. PyTorch emulates it on other processors, in many times the time of float32."""
    if device.type == "cpu":
        return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
