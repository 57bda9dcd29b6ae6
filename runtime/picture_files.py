"""Pictures as bytes of a file that carries their report: PNG, JPEG or WebP; and the report read back from any of them.

A PNG has the report under the key "saferedir", as `runtime.png` writes it. JPEG and WebP have it in the EXIF tag UserComment, as
JSON: {"saferedir": the report, "pixels_sha256": SHA-256 of the RGB bytes that Pillow decodes}. Compression changes a picture: the
report's own digest is of the picture before.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from engines.errors import InputError
from engines.printable import shown
from runtime.png import PNG_KEY, check_own, check_report, encode_png, image_digest, load_image, parse_report
from runtime.report import ComparisonReport, ImageReport

FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}  # name in requests → Pillow's
EXIF_IFD, USER_COMMENT = 0x8769, 0x9286
ASCII = b"ASCII\0\0\0"  # how EXIF marks a comment's characters
JPEG_LIMIT = 65_000  # bytes; EXIF in a JPEG is one segment of at most 65,533
# What a JPEG carries of a report that is longer.
ESSENTIALS = ("verdict", "seed", "sampler", "num_inference_steps", "height", "width", "manifest_digest", "image_sha256")


@dataclass(frozen=True)
class FoundReport:
    """The report inside a picture, and why the picture is not the one that it describes; None where it is."""

    report: dict[str, Any]
    problem: str | None


def encode(image: Image.Image, report: ImageReport | ComparisonReport, form: str = "png", quality: int = 100) -> bytes:
    """A file of one of FORMATS. `quality`, 0 to 100, is of JPEG and WebP; at 100 a WebP is lossless.

    Raises:
        InputError: the report is of another image, the format is none of FORMATS, or the quality out of range.
    """
    if form not in FORMATS:
        raise InputError(f"format: expected one of {', '.join(FORMATS)}, found {shown(form)}")
    if not 0 <= quality <= 100:
        raise InputError(f"quality: expected 0 to 100, found {shown(quality)}")
    if form == "png":
        return encode_png(image, report)
    check_own(image, report, "picture")
    options = {"lossless": True} if (form, quality) == ("webp", 100) else {"quality": quality}
    decoded = _pixels_digest(load_image(io.BytesIO(_saved(image, form, options)), "picture", [FORMATS[form]]))
    content = json.loads(report.to_json())
    comment = _comment(content, decoded)
    if form == "jpeg" and len(comment) > JPEG_LIMIT:
        comment = _comment(_essentials(content), decoded)
    exif = Image.Exif()
    exif[EXIF_IFD] = {USER_COMMENT: comment}
    return _saved(image, form, {**options, "exif": exif.tobytes()})


def read_report(content: bytes, name: str = "picture", most_pixels: int | None = None) -> FoundReport:
    """The report inside a PNG, JPEG or WebP, and whether it is this picture's.

    Raises:
        InputError: no picture, one of more than `most_pixels`, or none with a report.
    """
    image = load_image(io.BytesIO(content), name, list(FORMATS.values()), most_pixels)
    report: Any
    if image.format == "PNG":
        report = parse_report(getattr(image, "text", {}).get(PNG_KEY), name)
        digest = report.get("image_sha256")
    else:
        carried = parse_report(_user_comment(image), name)
        digest = carried.get("pixels_sha256")
        if not isinstance(report := carried.get(PNG_KEY), dict):
            raise InputError(f"{name}: expected a report under the key {PNG_KEY!r}, found {shown(report)}")
    try:
        check_report(image, report.get("width"), report.get("height"), digest, name)
    except InputError as error:
        return FoundReport(report, str(error))
    return FoundReport(report, None)


def _saved(image: Image.Image, form: str, options: dict[str, Any]) -> bytes:
    content = io.BytesIO()
    image.save(content, format=FORMATS[form], **options)
    return content.getvalue()


def _pixels_digest(image: Image.Image) -> str:
    return image_digest(np.asarray(image.convert("RGB")))


def _comment(report: dict[str, Any], pixels_sha256: str) -> bytes:
    return ASCII + json.dumps({PNG_KEY: report, "pixels_sha256": pixels_sha256}).encode("ascii")


def _user_comment(image: Image.Image) -> str | None:
    """The text of the EXIF tag; None where there is none of ours."""
    try:
        comment = image.getexif().get_ifd(EXIF_IFD).get(USER_COMMENT)
    except Exception:  # Pillow has several for EXIF that is broken
        return None
    return comment[len(ASCII) :].decode("ascii", "replace") if isinstance(comment, bytes) and comment.startswith(ASCII) else None


def _essentials(report: dict[str, Any]) -> dict[str, Any]:
    """What identifies a picture, and the names of what was left out."""
    kept = {name: report[name] for name in ESSENTIALS if name in report}
    return {**kept, "left_out": [name for name in report if name not in kept]}
