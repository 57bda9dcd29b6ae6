"""What the guard did, per image: as an object and as JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from engines.backends.program import Execution
from engines.policy import OFF, Off, Policy


@dataclass(frozen=True)
class Token:
    """A token of the prompt that the guard's mask marks; `weight` in 0..1."""

    position: int
    text: str
    weight: float


@dataclass(frozen=True)
class GuardReport:
    """What the guard of one concept saw of an image. Lists over steps have an entry for each row of the image's sampler.

    checkpoint_digest  SHA-256 of the SafeRedir checkpoint
    policy             numbers that the guard used; "off" where it did not look for this concept, as asked
    checked            whether the image was checked at that step
    p_unsafe           probability of unsafe, None where not checked
    unsafe_steps       steps whose check classified the image as unsafe
    redirected_steps   steps whose UNet call saw redirected embeddings
    responsible_tokens tokens held responsible at the first unsafe step
    final_p_unsafe     probability of unsafe of the final latents; None where the concept was off
    final_check_trusted  whether the checkpoint vouches for its final check; else that it found nothing says little
    still_unsafe       whether the final latents were found unsafe
    """

    concept: str
    checkpoint_digest: str
    policy: Policy | Off
    checked: list[bool]
    p_unsafe: list[float | None]
    unsafe_steps: list[int]
    redirected_steps: list[int]
    responsible_tokens: list[Token]
    final_p_unsafe: float | None
    final_check_trusted: bool
    still_unsafe: bool

    @property
    def off(self) -> bool:
        """Whether the guard did not look for this concept."""
        return self.policy == OFF

    def __str__(self) -> str:
        """One line for people."""
        if self.off:
            return f"{self.concept}: off, not guarded against"
        checks = [value for value in self.p_unsafe if value is not None]
        parts = [f"{self.concept}: highest p_unsafe {max(checks):.3f} in {len(checks)} checks"]
        if self.unsafe_steps:
            parts.append(f"unsafe at steps {_ranges(self.unsafe_steps)} of {len(self.checked)}")
        if self.responsible_tokens:
            parts.append("tokens: " + ", ".join(repr(token.text) for token in self.responsible_tokens))
        if self.still_unsafe:
            parts.append(f"final check: unsafe, p_unsafe {self.final_p_unsafe:.3f}")
        elif self.redirected_steps and not self.final_check_trusted:
            parts.append("final check: nothing found, but this guard's final check is not proven")
        return "; ".join(parts)


@dataclass(frozen=True)
class ImageReport:
    """One image's record.

    verdict          safe; redirected; still_unsafe (redirected in vain; withheld unless asked for); refused (withheld); unsafe
                     (monitored, unchanged); unguarded; forced (by `forced_verdict`); failed (withheld)
    sampler          its name in `runtime.samplers.registry.SAMPLERS`
    timesteps        of each row of the sampler
    guidance         what guidance_scale did: "classifier-free"; "none" at 1 or less; "embedded" where it is an input of the UNet
    on_still_unsafe  what a redirected image was to meet that the final check judges unsafe; None when no guard ran
    check            whether the guard looked "before" or "beside" the UNet of each step; None when no guard ran
    forced_verdict   what the guard was made to decide, whatever it saw; else None
    on_unsafe        what was to be done with an unsafe image; None when no guard ran
    guards           one for each concept; empty when no guard ran
    manifest_digest  SHA-256 of the engines' manifest
    defaults         options that were not chosen: their values here are defaults, of the pipeline, the engines or the model, and
                     random in a seed's case; policy.CONCEPT where a policy was given, but for other concepts
    cut              prompt, negative_prompt → the end of it that was not read, for it came after 77 tokens
    sampler_options  all options that the sampler read, by their names in diffusers' configs
    image_sha256     SHA-256 of the image's RGB bytes, row by row; None when withheld
    failure          why a failed image was withheld, else None
    """

    verdict: str
    prompt: str
    negative_prompt: str
    num_images_per_prompt: int
    clip_skip: int
    seed: int
    sampler: str
    num_inference_steps: int
    timesteps: list[float]
    guidance_scale: float
    guidance: str
    height: int
    width: int
    on_unsafe: str | None
    on_still_unsafe: str | None
    check: str | None
    forced_verdict: str | None
    guards: list[GuardReport]
    manifest_digest: str
    defaults: list[str] = field(default_factory=list)
    cut: dict[str, str] = field(default_factory=dict)
    sampler_options: dict[str, Any] = field(default_factory=dict)
    image_sha256: str | None = None
    failure: str | None = None

    def to_json(self, indent: int | None = None) -> str:
        """The whole record; NaN is written as null."""
        return _json(self, indent)

    def __str__(self) -> str:
        """One line for people."""
        if self.failure is not None:
            return f"failed, image withheld: {self.failure}"
        if self.verdict == "unguarded":
            return "unguarded: no guard ran"
        withheld = ", image withheld" if self.verdict in ("refused", "still_unsafe") and self.image_sha256 is None else ""
        return "; ".join([self.verdict + withheld, *map(str, self.guards)])


@dataclass(frozen=True)
class ComparisonReport:
    """The record of a picture that shows a guarded image and, to its right, the same one without the guard.

    `image_sha256` is of the whole picture; each report has the digest of its own image. `verdict` is always "comparison".
    """

    guarded: ImageReport
    unguarded: ImageReport
    height: int
    width: int
    image_sha256: str
    verdict: str = "comparison"

    def to_json(self, indent: int | None = None) -> str:
        """The whole record; NaN is written as null."""
        return _json(self, indent)


@dataclass(frozen=True, eq=False)
class Result:
    """Images, None where withheld, a report for each, and how the loop's steps have run since its shape was first asked for."""

    images: list[Image.Image | None]
    reports: list[ImageReport]
    execution: Execution

    def to_json(self) -> str:
        """A JSON list of all reports."""
        return "[\n" + ",\n".join(report.to_json(indent=2) for report in self.reports) + "\n]\n"


def _json(report: ImageReport | ComparisonReport, indent: int | None) -> str:
    return json.dumps(_plain(dataclasses.asdict(report)), indent=indent, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _ranges(steps: list[int]) -> str:
    """[1, 2, 3, 7] as "1-3, 7"."""
    spans: list[list[int]] = []
    for step in steps:
        if spans and step == spans[-1][1] + 1:
            spans[-1][1] = step
        else:
            spans.append([step, step])
    return ", ".join(f"{first}-{last}" if last > first else str(first) for first, last in spans)
