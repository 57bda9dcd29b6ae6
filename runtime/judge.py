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


@dataclass(frozen=True)
class Terms:
    """How one image was to be guarded: `rows` of its sampler, what an unsafe image meets, and the call that a check acts on."""

    rows: int
    on_unsafe: str
    check: str
    forced: bool


def judge(trace: Trace, image: int, terms: Terms, guards: Sequence[tuple[GuardRecord, Policy]]) -> Outcome:
    """The outcome of one image; `guards` is empty when no guard ran."""
    failure = _failure(trace, image, terms.rows)
    reports = [_guard_report(trace, image, terms, index, *guard) for index, guard in enumerate(guards)]
    return Outcome("failed" if failure else _verdict(reports, terms), failure, reports)


def _verdict(reports: Sequence[GuardReport], terms: Terms) -> str:
    if not reports:
        return "unguarded"
    if terms.forced:
        return "forced"
    still_unsafe = any(report.still_unsafe for report in reports)
    if still_unsafe and terms.on_unsafe == "redirect":
        return "still_unsafe"
    return WHEN_UNSAFE[terms.on_unsafe] if still_unsafe or any(report.unsafe_steps for report in reports) else "safe"


def responsible(mask: np.ndarray, words: list[str]) -> list[Token]:
    """Tokens of the prompt itself whose mask exceeds RESPONSIBLE, most responsible first.

    `mask` float32 [77]; `words` has the text of each token, "" for those that are not of the prompt.
    """
    tokens = [
        Token(position, word, float(mask[position])) for position, word in enumerate(words) if word and mask[position] > RESPONSIBLE
    ]
    return sorted(tokens, key=lambda token: -token.weight)


def _guard_report(trace: Trace, image: int, terms: Terms, concept: int, record: GuardRecord, policy: Policy) -> GuardReport:
    assert trace.p_unsafe is not None and trace.unsafe is not None
    assert trace.final_p_unsafe is not None and trace.final_unsafe is not None
    p_unsafe, unsafe = trace.p_unsafe[: terms.rows, concept, image], trace.unsafe[: terms.rows, concept, image]
    checked = p_unsafe != NOT_CHECKED
    steps = np.nonzero(unsafe)[0].tolist()
    return GuardReport(
        concept=record.concept,
        checkpoint_digest=record.digest,
        policy=policy,
        checked=checked.tolist(),
        p_unsafe=[float(value) if was_checked else None for value, was_checked in zip(p_unsafe, checked, strict=True)],
        unsafe_steps=steps,
        redirected_steps=_redirected(steps, terms),
        responsible_tokens=[],
        final_p_unsafe=float(trace.final_p_unsafe[concept, image]),
        final_check_trained=record.final_check,
        still_unsafe=bool(trace.final_unsafe[concept, image]),
    )


def _redirected(unsafe_steps: list[int], terms: Terms) -> list[int]:
    """Steps whose UNet call saw redirected embeddings: from the first unsafe check's own on, or from the next."""
    if not unsafe_steps or terms.on_unsafe != "redirect":
        return []
    return list(range(unsafe_steps[0] + (terms.check == "beside"), terms.rows))


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
    if trace.final_p_unsafe is not None and not np.isfinite(trace.final_p_unsafe[:, image]).all():
        return "guard returned NaN or infinity in the final check"
    return None
