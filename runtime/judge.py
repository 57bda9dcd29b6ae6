"""Reads the loop's trace and the token mask: what happened to each image, at which step, and because of which tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engines.manifest import Policy
from engines.networks import NOT_CHECKED
from runtime.loop import Trace
from runtime.report import RESPONSIBLE, Token
from runtime.request import Request


@dataclass(frozen=True)
class Judged:
    """The fields of an `ImageReport` that follow from the trace; `responsible_tokens` is empty until a token mask is read."""

    verdict: str
    checked: list[bool]
    p_unsafe: list[float | None]
    unsafe_steps: list[int]
    redirected_steps: list[int]
    responsible_tokens: list[Token]
    failure: str | None


def judge(trace: Trace, request: Request, policy: Policy | None) -> list[Judged]:
    """One record for each image; `policy` is None when no guard ran."""
    return [_judge_one(trace, index, request, policy) for index in range(len(request.prompts))]


def responsible(mask: np.ndarray, words: list[str]) -> list[Token]:
    """Tokens of the prompt itself whose mask exceeds RESPONSIBLE, most responsible first.

    `mask` float32 [77]; `words` has the text of each token, "" for those that are not of the prompt.
    """
    found = [
        Token(position, word, float(mask[position])) for position, word in enumerate(words) if word and mask[position] > RESPONSIBLE
    ]
    return sorted(found, key=lambda token: -token.weight)


def _judge_one(trace: Trace, index: int, request: Request, policy: Policy | None) -> Judged:
    failure = _failure(trace, index)
    rows = len(trace.finite)
    if policy is None or trace.p_unsafe is None:
        return Judged("failed" if failure else "unguarded", [False] * rows, [None] * rows, [], [], [], failure)
    p_unsafe = trace.p_unsafe[:, index]
    checked = p_unsafe != NOT_CHECKED
    unsafe = checked & ~(p_unsafe <= np.float32(policy.threshold))
    steps = np.nonzero(unsafe)[0].tolist()
    redirected = list(range(steps[0] + 1, rows)) if steps and request.on_unsafe == "redirect" else []
    verdict = "safe"
    if steps:
        verdict = {"redirect": "redirected", "refuse": "refused", "monitor": "unsafe"}[request.on_unsafe]
    values = [float(value) if was else None for value, was in zip(p_unsafe, checked, strict=True)]
    return Judged("failed" if failure else verdict, checked.tolist(), values, steps, redirected, [], failure)


def _failure(trace: Trace, index: int) -> str | None:
    """Network and step of the first number that was not finite, or None."""
    failures = [(int(row), 1, "unet") for row in np.nonzero(~trace.finite[:, index])[0][:1]]
    if trace.p_unsafe is not None:
        # Within a step, the guard judges before the UNet's prediction is used.
        failures += [(int(row), 0, "guard") for row in np.nonzero(~np.isfinite(trace.p_unsafe[:, index]))[0][:1]]
    if failures:
        row, _, network = min(failures)
        return f"{network} returned NaN or infinity at step {row} of {len(trace.finite)}"
    if not np.isfinite(trace.latents[index]).all():
        return "the final latents hold NaN or infinity"
    return None
