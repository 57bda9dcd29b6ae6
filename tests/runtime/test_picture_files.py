"""Files of pictures carry their report, whatever the format, and only the picture that it describes passes with it."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from engines.errors import InputError
from runtime import picture_files
from runtime.picture_files import FORMATS, encode, read_report
from runtime.png import image_digest, read_png, save_png
from saferedir.cli import main
from tests.runtime.reports import drawn

FORMS = [("png", 100), ("jpeg", 100), ("jpeg", 40), ("jpeg", 0), ("webp", 100), ("webp", 60), ("webp", 0)]


@pytest.mark.parametrize("form, quality", FORMS)
def test_the_report_is_read_back(form, quality):
    image, report = drawn()
    content = encode(image, report, form, quality)
    found = read_report(content)
    assert found.problem is None
    assert found.report == json.loads(report.to_json())
    opened = Image.open(io.BytesIO(content))
    assert opened.format == FORMATS[form] and opened.size == image.size
    if form == "png" or (form, quality) == ("webp", 100):
        np.testing.assert_array_equal(np.asarray(opened), np.asarray(image))


def test_quality_makes_smaller_files():
    image, report = drawn()
    for form in ("jpeg", "webp"):
        sizes = [len(encode(image, report, form, quality)) for quality in (5, 50, 95)]
        assert sizes == sorted(set(sizes)), form


def test_a_png_is_the_one_that_is_saved(tmp_path):
    image, report = drawn()
    save_png(image, report, tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes() == encode(image, report)
    (tmp_path / "served.png").write_bytes(encode(image, report))
    assert read_png(tmp_path / "served.png") == json.loads(report.to_json())


@pytest.mark.parametrize("form", FORMATS)
def test_another_picture_is_found_out(form):
    image, report = drawn()
    carrying = Image.open(io.BytesIO(encode(image, report, form)))
    pixels = np.asarray(image).copy()
    pixels[:8, :8] = 255
    content = io.BytesIO()
    information = {"pnginfo": _copied(carrying)} if form == "png" else {"exif": carrying.getexif().tobytes()}
    Image.fromarray(pixels).save(content, format=FORMATS[form], **information)
    found = read_report(content.getvalue(), "taken.jpg")
    assert found.report["verdict"] == "redirected"
    assert found.problem is not None and found.problem.startswith("taken.jpg: its report is of a picture with SHA-256")


def _copied(image):
    information = PngImagePlugin.PngInfo()
    for key, value in image.text.items():
        information.add_itxt(key, value)
    return information


def test_a_report_too_long_for_a_jpeg_says_what_is_left_out():
    image, report = drawn()
    long = replace(report, timesteps=[float(step) for step in range(20_000)])
    found = read_report(encode(image, long, "jpeg"))
    assert found.problem is None
    assert found.report["image_sha256"] == report.image_sha256 and found.report["verdict"] == "redirected"
    assert {"timesteps", "guards", "prompt"} <= set(found.report["left_out"]) and "timesteps" not in found.report
    start = len(picture_files._comment(json.loads(report.to_json()), "0" * 64))
    for more in range(-3, 4):  # around the limit: whole or cut, never an error
        longer = replace(report, prompt=report.prompt + "x" * (picture_files.JPEG_LIMIT - start + more))
        assert ("left_out" in read_report(encode(image, longer, "jpeg")).report) == (more > 0)
    for form in ("png", "webp"):
        assert read_report(encode(image, long, form)).report == json.loads(long.to_json())


@pytest.mark.parametrize("form", FORMATS)
def test_no_file_of_another_pictures_report(form):
    image, report = drawn()
    other = Image.fromarray(np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(InputError, match="altered, or another one"):
        encode(other, report, form)


def test_what_cannot_be_encoded():
    image, report = drawn()
    for options, message in [(("gif",), "format: expected one of png, jpeg, webp, found 'gif'"), (("jpeg", 101), "quality")]:
        with pytest.raises(InputError, match=message):
            encode(image, report, *options)
    for form in FORMATS:
        with pytest.raises(InputError, match="expected an image, found None"):
            encode(None, report, form)


def test_what_has_no_report():
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, format="JPEG")
    with pytest.raises(InputError, match="expected a report under the key 'saferedir', found none"):
        read_report(content.getvalue())
    with pytest.raises(InputError, match="expected a PNG or JPEG or WEBP, found another file"):
        read_report(b"no picture")
    image, report = drawn()
    with pytest.raises(InputError, match="of at most 4095 pixels, found 64x64"):
        read_report(encode(image, report), most_pixels=64 * 64 - 1)


@pytest.mark.parametrize("text", ["[]", "{", '{"saferedir": 7}', "{}"])
def test_a_comment_that_is_no_report(text):
    exif = Image.Exif()
    exif[picture_files.EXIF_IFD] = {picture_files.USER_COMMENT: picture_files.ASCII + text.encode()}
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, format="WEBP", exif=exif.tobytes())
    with pytest.raises(InputError, match="expected a report"):
        read_report(content.getvalue())


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of broken EXIF
def test_broken_files_are_one_error():
    """Cut anywhere, or with bytes changed: a report or InputError, nothing else."""
    image, report = drawn()
    random = np.random.default_rng(0)
    for form in FORMATS:
        content = encode(image, report, form, 90)
        for _ in range(60):
            broken = bytearray(content)
            for place in random.integers(0, len(broken), 5):
                broken[place] = random.integers(256)
            for piece in (bytes(broken), content[: random.integers(len(content))]):
                try:
                    assert isinstance(read_report(piece).report, dict)
                except InputError as error:
                    assert "\n" not in str(error)


def test_the_digest_is_of_the_decoded_pixels():
    image, report = drawn()
    opened = Image.open(io.BytesIO(encode(image, report, "jpeg", 70)))
    carried = json.loads(opened.getexif().get_ifd(0x8769)[0x9286][8:])
    assert carried["pixels_sha256"] == image_digest(np.asarray(opened)) != report.image_sha256


@pytest.mark.parametrize("form", FORMATS)
def test_the_command_inspects_it(form, tmp_path, capsys):
    image, report = drawn()
    path = tmp_path / f"out.{form}"
    path.write_bytes(encode(image, report, form))
    assert main(["inspect", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "verdict" in printed and "redirected" in printed and "as the report says" in printed
