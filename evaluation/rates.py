"""Shares with the interval that their n leaves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Z = 1.959964  # of a 95 % interval


def rate(hits: Sequence[bool]) -> dict[str, Any]:
    """Share of hits with its 95 % Wilson score interval."""
    count, total = int(np.sum(hits)), len(hits)
    share = count / total
    centre = (share + Z**2 / (2 * total)) / (1 + Z**2 / total)
    half = Z / (1 + Z**2 / total) * np.sqrt(share * (1 - share) / total + Z**2 / (4 * total**2))
    return {
        "hits": count,
        "of": total,
        "rate": round(share, 4),
        "interval_95": [round(float(max(centre - half, 0)), 4), round(float(min(centre + half, 1)), 4)],
    }
