"""What the guard did, per image: as an object, as JSON and inside the PNG."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from engines.backends.program import Execution
from engines.policy import Policy
from engines.store.atomic import replacing
from runtime.credentials import Credentials

PNG_KEY = "saferedir"


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
    policy             numbers that the guard used
    checked            whether the image was checked at that step
    p_unsafe           probability of unsafe, None where not checked
    unsafe_steps       steps whose check classified the image as unsafe
    redirected_steps   steps whose UNet call saw redirected embeddings
    responsible_tokens tokens held responsible at the first unsafe step
    final_p_unsafe     probability of unsafe of the final latents
    still_unsafe       whether the final latents were found unsafe
    """

    concept: str
    checkpoint_digest: str
    policy: Policy
    checked: list[bool]
    p_unsafe: list[float | None]
    unsafe_steps: list[int]
    redirected_steps: list[int]
    responsible_tokens: list[Token]
    final_p_unsafe: float
    still_unsafe: bool

    def __str__(self) -> str:
        """One line for people."""
        checks = [value for value in self.p_unsafe if value is not None]
        parts = [f"{self.concept}: highest p_unsafe {max(checks):.3f} in {len(checks)} checks"]
        if self.unsafe_steps:
            parts.append(f"unsafe at steps {_ranges(self.unsafe_steps)} of {len(self.checked)}")
        if self.responsible_tokens:
            parts.append("tokens: " + ", ".join(repr(token.text) for token in self.responsible_tokens))
        if self.still_unsafe:
            parts.append(f"final check: unsafe, p_unsafe {self.final_p_unsafe:.3f}")
        return "; ".join(parts)


@dataclass(frozen=True)
class ImageReport:
    """One image's record.

    verdict          safe; redirected; still_unsafe (redirected in vain; withheld unless asked for); refused (withheld); unsafe
                     (monitored, unchanged); unguarded; forced (by `forced_verdict`); failed (withheld)
    timesteps        of each row of the sampler
    on_still_unsafe  what a redirected image was to meet that the final check judges unsafe; None when no guard ran
    check            whether the guard looked "before" or "beside" the UNet of each step; None when no guard ran
    forced_verdict   what the guard was made to decide, whatever it saw; else None
    on_unsafe        what was to be done with an unsafe image; None when no guard ran
    guards           one for each concept; empty when no guard ran
    manifest_digest  SHA-256 of the engines' manifest
    image_sha256     SHA-256 of the image's RGB bytes, row by row; None when withheld
    failure          why a failed image was withheld, else None
    """

    verdict: str
    prompt: str
    negative_prompt: str
    seed: int
    sampler: str
    num_inference_steps: int
    timesteps: list[float]
    guidance_scale: float
    height: int
    width: int
    on_unsafe: str | None
    on_still_unsafe: str | None
    check: str | None
    forced_verdict: str | None
    guards: list[GuardReport]
    manifest_digest: str
    image_sha256: str | None = None
    failure: str | None = None

    def to_json(self, indent: int | None = None) -> str:
        """The whole record; NaN is written as null."""
        return json.dumps(_plain(dataclasses.asdict(self)), indent=indent, ensure_ascii=False, allow_nan=False)

    def __str__(self) -> str:
        """One line for people."""
        if self.failure is not None:
            return f"failed, image withheld: {self.failure}"
        if self.verdict == "unguarded":
            return "unguarded: no guard ran"
        withheld = ", image withheld" if self.verdict in ("refused", "still_unsafe") and self.image_sha256 is None else ""
        return "; ".join([self.verdict + withheld, *map(str, self.guards)])


@dataclass(frozen=True, eq=False)
class Result:
    """Images, None where withheld, a report for each, and how the loop's steps have run since its shape was first asked for."""

    images: list[Image.Image | None]
    reports: list[ImageReport]
    execution: Execution

    def to_json(self) -> str:
        """A JSON list of all reports."""
        return "[\n" + ",\n".join(report.to_json(indent=2) for report in self.reports) + "\n]\n"


def image_digest(pixels: np.ndarray) -> str:
    """SHA-256 of uint8 [height, width, 3]."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def save_png(image: Image.Image, report: ImageReport, path: str | Path, credentials: Credentials | None = None) -> None:
    """Write a PNG that carries its report under the key "saferedir", atomically, and signed where credentials are given."""
    information = PngImagePlugin.PngInfo()
    information.add_itxt(PNG_KEY, report.to_json())
    with replacing(Path(path)) as temporary:
        image.save(temporary, format="PNG", pnginfo=information)
        if credentials is not None:
            temporary.write_bytes(credentials.sign(temporary.read_bytes(), report))


def read_png(path: str | Path) -> dict[str, Any]:
    """The report inside a PNG; KeyError where there is none."""
    with Image.open(path) as image:
        report: dict[str, Any] = json.loads(image.text[PNG_KEY])
    return report


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
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
