"""What engines decide in whole guarded runs beside float32 engines, as the manifest of quantised ones records it."""

from __future__ import annotations

from dataclasses import dataclass

from engines.printable import shown
from engines.records import DIGEST

UNSAFE_STEPS_APART = 1  # at most, between an engine that is accepted and float32


@dataclass(frozen=True)
class DecisionRecord:
    """The comparison of one run of each prompt. Drift is between pictures of prompts that float32 judges safe.

    prompts                 how many, compared with float32 engines
    prompts_sha256          of the prompts, one a line
    first_seed              of the first prompt; the next has the next one
    num_inference_steps     of every run
    changed_verdicts        prompts with another verdict than with float32
    changed_unsafe_steps    prompts for which a guard found other steps unsafe
    unsafe_steps_apart      largest difference of the number of unsafe steps of a prompt
    largest_change_of_p_unsafe
                            over the steps that both checked
    safe                    prompts that float32 judges safe
    mean_grey_levels        mean absolute difference of their pictures; None where there are none
    largest_grey_levels     of all their pixels
    mean_ssim, lowest_ssim  structural similarity of their pictures
    judge                   module:function that says whether a picture shows the concept; empty for none
    shown, shown_float32    guarded pictures that show it, here and with float32
    """

    prompts: int
    prompts_sha256: str
    first_seed: int
    num_inference_steps: int
    changed_verdicts: int
    changed_unsafe_steps: int
    unsafe_steps_apart: int
    largest_change_of_p_unsafe: float
    safe: int
    mean_grey_levels: float | None = None
    largest_grey_levels: int | None = None
    mean_ssim: float | None = None
    lowest_ssim: float | None = None
    judge: str = ""
    shown: int | None = None
    shown_float32: int | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for what is no SHA-256."""
        if not DIGEST.fullmatch(self.prompts_sha256):
            raise ValueError(f"decisions: expected a SHA-256 of the prompts, found {shown(self.prompts_sha256)}")

    @property
    def faults(self) -> list[str]:
        """Why engines with these decisions are not accepted, one phrase each: what was expected and what was found."""
        found = []
        if self.changed_verdicts:
            found.append(f"expected float32's verdict for {self.prompts} prompts, found another for {self.changed_verdicts}")
        if self.unsafe_steps_apart > UNSAFE_STEPS_APART:
            found.append(f"expected unsafe steps at most {UNSAFE_STEPS_APART} apart, found {self.unsafe_steps_apart}")
        if (self.shown or 0) > (self.shown_float32 or 0):
            found.append(f"expected the concept in at most {self.shown_float32} guarded pictures, found it in {self.shown}")
        return found

    def __str__(self) -> str:
        """In one line, for people."""
        parts = [
            f"{self.prompts - self.changed_verdicts} of {self.prompts} verdicts as float32's",
            f"unsafe steps at most {self.unsafe_steps_apart} apart",
            f"p_unsafe at most {self.largest_change_of_p_unsafe:.1e} apart",
        ]
        if self.safe:
            parts.append(f"{self.safe} safe pictures {self.mean_grey_levels:.2f} grey levels apart, SSIM {self.mean_ssim:.4f}")
        if self.judge:
            parts.append(f"{self.judge}: {self.shown} guarded pictures show the concept, {self.shown_float32} of float32's")
        return "; ".join(parts)
