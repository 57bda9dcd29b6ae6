"""Reads the loop's trace and the token mask: what happened to each image, at which step, and because of which tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engines.networks import NOT_CHECKED
from engines.policy import Policy
from engines.records import GuardRecord
from runtime.loop import Trace
from runtime.report import GuardReport, Token

RESPONSIBLE = 0.5  # a token whose mask exceeds this is held responsible
WHEN_UNSAFE = {"redirect": "redirected", "refuse": "refused", "monitor": "unsafe"}  # on_unsafe → verdict


@dataclass(frozen=True)
class Outcome:
    """The outcome for one image: its verdict, why it failed if it did, and the report of each concept's guard."""

    verdict: str
    failure: str | None
    guards: list[GuardReport]


def judge(trace: Trace, image: int, rows: int, on_unsafe: str, guards: Sequence[tuple[GuardRecord, Policy]]) -> Outcome:
    """The outcome of one image of `rows` rows; `guards` is empty when no guard ran."""
    failure = _failure(trace, image, rows)
    reports = [_guard_report(trace, image, rows, on_unsafe, index, *guard) for index, guard in enumerate(guards)]
    verdict = "safe" if guards else "unguarded"
    if any(report.unsafe_steps for report in reports):
        verdict = WHEN_UNSAFE[on_unsafe]
    return Outcome("failed" if failure else verdict, failure, reports)


def responsible(mask: np.ndarray, words: list[str]) -> list[Token]:
    """Tokens of the prompt itself whose mask exceeds RESPONSIBLE, most responsible first.

    `mask` float32 [77]; `words` has the text of each token, "" for those that are not of the prompt.
    """
    tokens = [
        Token(position, word, float(mask[position])) for position, word in enumerate(words) if word and mask[position] > RESPONSIBLE
    ]
    return sorted(tokens, key=lambda token: -token.weight)


def _guard_report(
    trace: Trace, image: int, rows: int, on_unsafe: str, concept: int, record: GuardRecord, policy: Policy
) -> GuardReport:
    assert trace.p_unsafe is not None and trace.unsafe is not None
    p_unsafe, unsafe = trace.p_unsafe[:rows, concept, image], trace.unsafe[:rows, concept, image]
    checked = p_unsafe != NOT_CHECKED
    steps = np.nonzero(unsafe)[0].tolist()
    return GuardReport(
        concept=record.concept,
        checkpoint_digest=record.digest,
        policy=policy,
        checked=checked.tolist(),
        p_unsafe=[float(value) if was_checked else None for value, was_checked in zip(p_unsafe, checked, strict=True)],
        unsafe_steps=steps,
        redirected_steps=list(range(steps[0] + 1, rows)) if steps and on_unsafe == "redirect" else [],
        responsible_tokens=[],
    )


def _failure(trace: Trace, image: int, rows: int) -> str | None:
    """Network and step of the first number that was not finite, or None."""
    failures = [(int(row), 1, "unet") for row in np.nonzero(~trace.finite[:rows, image])[0][:1]]
    if trace.p_unsafe is not None:
        # Within a step the guard is named first: its check comes before the UNet's prediction is used.
        broken = ~np.isfinite(trace.p_unsafe[:rows, :, image]).all(axis=1)
        failures += [(int(row), 0, "guard") for row in np.nonzero(broken)[0][:1]]
    if failures:
        row, _, network = min(failures)
        return f"{network} returned NaN or infinity at step {row} of {rows}"
    if not np.isfinite(trace.latents[image]).all():
        return "the final latents hold NaN or infinity"
    return None
