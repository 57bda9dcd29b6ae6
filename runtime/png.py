"""PNGs that carry their report: written whole, and read back only where picture and report belong together."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from engines.errors import InputError
from engines.printable import shown
from engines.store.atomic import replacing
from runtime.credentials import Credentials
from runtime.report import ComparisonReport, ImageReport

PNG_KEY = "saferedir"


def image_digest(pixels: np.ndarray) -> str:
    """SHA-256 of uint8 [height, width, 3]."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def save_png(
    image: Image.Image, report: ImageReport | ComparisonReport, path: str | Path, credentials: Credentials | None = None
) -> None:
    """Write a PNG that carries its report under the key "saferedir", atomically, and signed where credentials are given.

    Raises:
        InputError: the report is of another image, or credentials were given for a comparison.
    """
    if credentials is not None and not isinstance(report, ImageReport):
        raise InputError(f"{path}: expected no credentials for a comparison, found some; sign the guarded picture itself")
    if not isinstance(image, Image.Image):
        raise InputError(f"{path}: expected an image, found {shown(image)}; the verdict of its report is {shown(report.verdict)}")
    check_report(image, report.width, report.height, report.image_sha256, str(path))
    information = PngImagePlugin.PngInfo()
    information.add_itxt(PNG_KEY, report.to_json())
    with replacing(Path(path)) as temporary:
        image.save(temporary, format="PNG", pnginfo=information)
        if credentials is not None and isinstance(report, ImageReport):
            temporary.write_bytes(credentials.sign(temporary.read_bytes(), _decision(report)))


def _decision(report: ImageReport) -> dict[str, Any]:
    """What content credentials say of the guard."""
    return {
        "verdict": report.verdict,
        "on_unsafe": report.on_unsafe,
        "guards": [
            {"concept": guard.concept, "checkpoint_digest": guard.checkpoint_digest, "off": guard.off} for guard in report.guards
        ],
        "manifest_digest": report.manifest_digest,
        "image_sha256": report.image_sha256,
    }


def read_png(path: str | Path) -> dict[str, Any]:
    """The report inside a PNG, whose picture is checked against it.

    Raises:
        InputError: no picture, none with a report, or one that was changed since its report was written.
    """
    report, image = read_unchecked(path)
    check_report(image, report.get("width"), report.get("height"), report.get("image_sha256"), str(path))
    return report


def read_unchecked(path: str | Path) -> tuple[dict[str, Any], Image.Image]:
    """The report inside a PNG as it is, and the picture.

    Raises:
        InputError: no picture, or none with a report.
    """
    try:
        with Image.open(path, formats=["PNG"]) as opened:
            opened.load()
            content = getattr(opened, "text", {}).get(PNG_KEY)
            image = opened.copy()
    except OSError as error:
        if error.strerror:  # the system's, as of a missing file
            raise
        raise InputError(f"{path}: expected a PNG, found none that can be read ({error})") from None
    except Exception as error:  # Pillow has several for what is broken or too large
        raise InputError(f"{path}: expected a PNG, found none that can be read ({error})") from None
    if content is None:
        raise InputError(f"{path}: expected a report under the key {PNG_KEY!r}, found none; saved again by other software?")
    try:
        report = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected a report in JSON, found another text ({error})") from None
    if not isinstance(report, dict):
        raise InputError(f"{path}: expected a report, found {shown(report)}")
    return report, image


def check_report(image: Image.Image, width: object, height: object, digest: object, name: str) -> None:
    """Raise InputError unless width, height and SHA-256 of a report are this image's; `name` is the picture's file."""
    if image.mode != "RGB":
        raise InputError(f"{name}: expected an RGB image as its report describes, found mode {image.mode}")
    if image.size != (width, height):
        raise InputError(f"{name}: its report is of {shown(width)}x{shown(height)} pixels, found {image.width}x{image.height}")
    if (found := image_digest(np.asarray(image))) != digest:
        raise InputError(f"{name}: its report is of a picture with SHA-256 {shown(digest)}, found {found}: altered, or another one")
