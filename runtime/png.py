"""PNGs that carry their report: written whole, and read back only where picture and report belong together."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError

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
    content = encode_png(image, report, str(path))
    if credentials is not None and isinstance(report, ImageReport):
        content = credentials.sign(content, _decision(report))
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(content)


def encode_png(image: Image.Image, report: ImageReport | ComparisonReport, name: str = "picture") -> bytes:
    """A PNG that carries its report; `name` is the picture's, for errors.

    Raises:
        InputError: the report is of another image.
    """
    check_own(image, report, name)
    information = PngImagePlugin.PngInfo()
    information.add_itxt(PNG_KEY, report.to_json())
    content = io.BytesIO()
    image.save(content, format="PNG", pnginfo=information)
    return content.getvalue()


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
    image = load_image(path, str(path), ["PNG"])
    report = parse_report(getattr(image, "text", {}).get(PNG_KEY), str(path))
    check_report(image, report.get("width"), report.get("height"), report.get("image_sha256"), str(path))
    return report


def load_image(source: str | Path | BinaryIO, name: str, formats: list[str], most_pixels: int | None = None) -> Image.Image:
    """A picture of one of Pillow's `formats`, loaded; `name` is its file, for errors.

    Raises:
        InputError: no such picture, or one of more than `most_pixels`, of which none was decoded.
        OSError: the file cannot be opened.
    """
    expected = f"{name}: expected a {' or '.join(formats)}"
    try:
        image: Image.Image
        with Image.open(source, formats=formats) as image:
            if most_pixels is not None and image.width * image.height > most_pixels:
                raise InputError(f"{expected} of at most {most_pixels} pixels, found {image.width}x{image.height}")
            image.load()
            return image
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(f"{expected}, found another file") from None
    except OSError as error:
        if error.strerror:  # the system's, as of a missing file
            raise
        raise InputError(f"{expected}, found none that can be read ({error})") from None
    except Exception as error:  # Pillow has several for what is broken or too large
        raise InputError(f"{expected}, found none that can be read ({error})") from None


def parse_report(content: str | None, name: str) -> dict[str, Any]:
    """The object of a picture's report; None where the picture has none. `name` is its file, for errors.

    Raises:
        InputError: none, or no report in JSON.
    """
    if content is None:
        raise InputError(f"{name}: expected a report under the key {PNG_KEY!r}, found none; saved again by other software?")
    try:
        report = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: expected a report in JSON, found another text ({error})") from None
    if not isinstance(report, dict):
        raise InputError(f"{name}: expected a report, found {shown(report)}")
    return report


def check_own(image: object, report: ImageReport | ComparisonReport, name: str) -> None:
    """Raise InputError unless `image` is the one that a report describes; `name` is the picture's, for errors."""
    if not isinstance(image, Image.Image):
        raise InputError(f"{name}: expected an image, found {shown(image)}; the verdict of its report is {shown(report.verdict)}")
    check_report(image, report.width, report.height, report.image_sha256, name)


def check_report(image: Image.Image, width: object, height: object, digest: object, name: str) -> None:
    """Raise InputError unless width, height and SHA-256 of a report are this image's; `name` is the picture's file."""
    if image.mode != "RGB":
        raise InputError(f"{name}: expected an RGB image as its report describes, found mode {image.mode}")
    if image.size != (width, height):
        raise InputError(f"{name}: its report is of {shown(width)}x{shown(height)} pixels, found {image.width}x{image.height}")
    if (found := image_digest(np.asarray(image))) != digest:
        raise InputError(f"{name}: its report is of a picture with SHA-256 {shown(digest)}, found {found}: altered, or another one")
