"""Reads the loop's trace and the token mask: what happened to each image, at which step, and because of which tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from engines.networks import NEVER, NOT_CHECKED
from engines.policy import OFF, Off, Policy
from engines.records import GuardRecord
from runtime.loop import Trace
from runtime.report import GuardReport, Token
from runtime.start import FORCED

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
    """How one image is guarded: `rows` of its sampler, what an unsafe image meets, and the call that a check acts on."""

    rows: int
    on_unsafe: str
    check: str
    forced_verdict: str | None

    @property
    def acts(self) -> bool:
        """Whether the guard redirects."""
        return self.on_unsafe == "redirect"

    def numbers(self, policy: Policy | Off) -> Numbers:
        """By which the guard's engine acts. To refuse or to monitor, it checks every row and shifts by nothing."""
        if policy == OFF:
            never = FORCED["safe"]
            return Numbers(
                conditional=0.0, unconditional=0.0, threshold=never, final_threshold=never, replace_steps=0, countdown=NEVER
            )
        strength = policy.alpha_scale if self.acts else 0.0
        forced = None if self.forced_verdict is None else FORCED[self.forced_verdict]
        return Numbers(
            conditional=strength,
            unconditional=strength if policy.shift == "both" else 0.0,
            threshold=policy.threshold if forced is None else forced,
            final_threshold=policy.threshold_at_end if forced is None else forced,
            replace_steps=policy.replace_steps if self.acts else 0,
            countdown=0,
        )


@dataclass(frozen=True)
class Numbers:
    """What the guard's engine is given for one concept and image.

    conditional, unconditional  strength of the shift for each row of the embeddings
    threshold                   p_unsafe above which the image is unsafe
    final_threshold             the same of the finished picture
    replace_steps               rows without a check after an unsafe one
    countdown                   rows before the first check
    """

    conditional: float
    unconditional: float
    threshold: float
    final_threshold: float
    replace_steps: int
    countdown: int


def judge(trace: Trace, image: int, terms: Terms, guards: Sequence[tuple[GuardRecord, Policy | Off]]) -> Outcome:
    """The outcome of one image; `guards` is empty when no guard ran."""
    failure = _failure(trace, image, terms.rows, [terms.numbers(policy) for _, policy in guards])
    reports = [_guard_report(trace, image, terms, index, *guard) for index, guard in enumerate(guards)]
    return Outcome("failed" if failure else _verdict(reports, terms), failure, reports)


def _verdict(reports: Sequence[GuardReport], terms: Terms) -> str:
    if not reports:
        return "unguarded"
    if terms.forced_verdict is not None:
        return "forced"
    still_unsafe = any(report.still_unsafe for report in reports)
    if still_unsafe and terms.acts:
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


def _guard_report(trace: Trace, image: int, terms: Terms, concept: int, record: GuardRecord, policy: Policy | Off) -> GuardReport:
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
        final_p_unsafe=None if policy == OFF else float(trace.final_p_unsafe[concept, image]),
        final_check_trusted=record.final_check,
        still_unsafe=bool(trace.final_unsafe[concept, image]),
    )


def _redirected(unsafe_steps: list[int], terms: Terms) -> list[int]:
    """Steps whose UNet call saw redirected embeddings: from the first unsafe check's own on, or from the next."""
    if not unsafe_steps or not terms.acts:
        return []
    return list(range(unsafe_steps[0] + (terms.check == "beside"), terms.rows))


def _failure(trace: Trace, image: int, rows: int, concepts: Sequence[Numbers]) -> str | None:
    """What a network did wrong first, or None."""
    failures = [(int(row), 1, "unet returned NaN or infinity") for row in np.nonzero(~trace.finite[:rows, image])[0][:1]]
    if trace.p_unsafe is not None and trace.unsafe is not None:
        for concept, numbers in enumerate(concepts):
            answers = trace.p_unsafe[:rows, concept, image], trace.unsafe[:rows, concept, image]
            if (wrong := _wrong_answer(*answers, numbers)) is not None:
                # Within a step the guard is named first: its check comes before the UNet's prediction is used.
                failures.append((wrong[0], 0, wrong[1]))
    if failures:
        row, _, fault = min(failures)
        return f"{fault} at step {row} of {rows}"
    if not np.isfinite(trace.latents[image]).all():
        return "the final latents hold NaN or infinity"
    if trace.final_p_unsafe is not None and trace.final_unsafe is not None:
        for concept, numbers in enumerate(concepts):
            answer = trace.final_p_unsafe[concept : concept + 1, image], trace.final_unsafe[concept : concept + 1, image]
            at_end = replace(numbers, threshold=numbers.final_threshold)
            if (wrong_at_end := _wrong_answer(*answer, at_end)) is not None:
                return f"{wrong_at_end[1]} in the final check"
    return None


def _wrong_answer(p_unsafe: np.ndarray, unsafe: np.ndarray, numbers: Numbers) -> tuple[int, str] | None:
    """The first row, of [R], at which the guard did not do what its rule and its numbers say, and what it did."""
    countdown = numbers.countdown
    for row, (value, found) in enumerate(zip(p_unsafe.tolist(), unsafe.tolist(), strict=True)):
        if countdown > 0:
            countdown -= 1
            if value != NOT_CHECKED or found:
                return row, f"guard gave p_unsafe {value:g}, expected none while its countdown runs,"
            continue
        if (fault := _wrong_check(value, found, numbers.threshold)) is not None:
            return row, fault
        countdown = numbers.replace_steps if found else 0
    return None


def _wrong_check(p_unsafe: float, unsafe: bool, threshold: float) -> str | None:
    """What is wrong with one check's answer, or None."""
    if not np.isfinite(p_unsafe):
        return "guard returned NaN or infinity"
    if p_unsafe == NOT_CHECKED:
        return "guard did not check the image"
    if not 0 <= p_unsafe <= 1:
        return f"guard gave p_unsafe {p_unsafe:g}, expected 0 to 1,"
    if unsafe != (p_unsafe > float(np.float32(threshold))):
        return f"guard called p_unsafe {p_unsafe:g} {'unsafe' if unsafe else 'safe'} with threshold {threshold:g}"
    return None
