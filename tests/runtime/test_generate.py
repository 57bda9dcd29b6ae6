"""The command, as a user runs it."""

from __future__ import annotations

import errno
import io
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from engines.errors import InputError
from runtime.png import PNG_KEY, image_digest, read_png, save_png
from saferedir.cli import main

ROOT = Path(__file__).resolve().parent.parent.parent
FIRE, PLAIN = "a burning blue square on a grey background", "a blue square on a grey background"


@pytest.fixture
def run(demo_engines, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        status = main(["generate", *arguments, "--engine-dir", str(demo_engines), "--num-inference-steps", "8"])
        return status, *capsys.readouterr()

    return call


def test_writes_the_image_and_prints_the_verdict(run, tmp_path):
    status, out, err = run(FIRE, "--seed", "7", "--report", "report.json")
    assert status == 0 and "redirected" in out and "'burning'" in out and "out.png" in out
    assert "step 8/8" in err
    report = json.loads((tmp_path / "report.json").read_text())[0]
    assert report["image_sha256"] == image_digest(np.asarray(Image.open("out.png")))
    assert report == read_png("out.png") and report["seed"] == 7


def test_compare_shows_both_and_says_so(run, tmp_path):
    assert run(FIRE, "--seed", "7", "--compare", "--output", "both.png")[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["both-comparison.png"]
    both = np.asarray(Image.open("both-comparison.png"))
    assert both.shape == (64, 132, 3)
    run(FIRE, "--seed", "7", "--output", "guarded.png")
    run(FIRE, "--seed", "7", "--unguarded", "--output", "unguarded.png")
    np.testing.assert_array_equal(both[:, :64], np.asarray(Image.open("guarded.png")))
    np.testing.assert_array_equal(both[:, 68:], np.asarray(Image.open("unguarded.png")))
    assert read_png("unguarded.png")["verdict"] == "unguarded"
    report = read_png("both-comparison.png")
    assert (report["verdict"], report["width"], report["height"]) == ("comparison", 132, 64)
    assert report["image_sha256"] == image_digest(both)
    assert report["guarded"] == read_png("guarded.png")
    assert report["unguarded"]["image_sha256"] == read_png("unguarded.png")["image_sha256"]
    assert report["unguarded"]["verdict"] == "unguarded"


def test_several_prompts_and_a_refusal(run, tmp_path):
    status, out, _ = run(PLAIN, FIRE, "--seed", "0", "--on-unsafe", "refuse")
    assert status == 3 and "refused, image withheld" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out-0.png"]


def test_several_images_of_several_prompts(run, tmp_path):
    arguments = [PLAIN, FIRE, "--seed", "4", "--num-images-per-prompt", "2", "--width", "40", "--clip-skip", "1"]
    status, out, _ = run(*arguments, "--report", "report.json")
    assert status == 0 and out.count("\n") == 4
    reports = json.loads((tmp_path / "report.json").read_text())
    assert [(report["prompt"], report["seed"]) for report in reports] == [(PLAIN, 4), (PLAIN, 5), (FIRE, 6), (FIRE, 7)]
    for index, report in enumerate(reports):
        assert report == read_png(f"out-{index}.png") and (report["width"], report["height"]) == (40, 64)
        assert (report["num_images_per_prompt"], report["clip_skip"]) == (2, 1)
    assert run(*arguments, "--compare", "--output", "both.png")[0] == 0
    assert [read_png(f"both-{index}-comparison.png")["unguarded"]["seed"] for index in range(4)] == [4, 5, 6, 7]


def test_what_was_refused_is_in_no_comparison(run, tmp_path):
    status, out, _ = run(PLAIN, FIRE, "--seed", "0", "--on-unsafe", "refuse", "--compare")
    assert status == 3 and "refused, image withheld" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out-0-comparison.png"]
    assert run(FIRE, "--seed", "1", "--on-unsafe", "refuse", "--compare", "--output", "fire.png")[0] == 3
    assert not list(tmp_path.glob("fire*"))


def test_inspect_prints_a_pictures_report_and_checks_it(run, tmp_path, capsys):
    run(FIRE, "--seed", "7")
    assert main(["inspect", "out.png"]) == 0
    printed = capsys.readouterr().out
    for part in ("redirected", FIRE, "guards.0.policy.threshold", "as the report says: 64x64 pixels", "guidance_scale"):
        assert part in printed
    report, other = PngImagePlugin.PngInfo(), np.array(Image.open("out.png"))
    report.add_itxt(PNG_KEY, Image.open("out.png").text[PNG_KEY])
    other[0, 0, 0] ^= 1
    Image.fromarray(other).save("altered.png", pnginfo=report)
    Image.fromarray(other).save("bare.png")
    (tmp_path / "text.png").write_text("no picture")
    for name, message in (
        ("altered.png", "its report is of a picture with SHA-256"),
        ("bare.png", "expected a report"),
        ("text.png", "expected a PNG"),
        ("missing.png", "no engines here"),
    ):
        assert main(["inspect", name]) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1 and err.startswith("error: ")
        with pytest.raises((InputError, OSError)):
            read_png(name)


def test_control_characters_are_escaped(run, tmp_path, capsys):
    hostile = "a star\x1b[2J\u202e\r\nerror"
    _, out, _ = run(hostile, "--seed", "0")
    assert "\x1b" not in out and "\u202e" not in out and out.count("\n") == 1 and r"\x1b[2J\u202e\r\n" in out
    assert main(["inspect", "out.png"]) == 0
    out = capsys.readouterr().out
    assert not {"\x1b", "\u202e", "\r"} & {*out} and r"a star\x1b[2J\u202e\r\nerror" in out
    _, _, err = run(PLAIN + " word" * 80 + "\x1b[2J", "--seed", "0")
    assert "\x1b" not in err and r"\x1b[2J" in err
    assert main(["inspect", "no\x1b[2Jfolder"]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_a_refused_run_leaves_no_older_picture(run, tmp_path):
    assert run(FIRE, "--seed", "7")[0] == 0 and (tmp_path / "out.png").exists()
    status, out, _ = run(FIRE, "--seed", "7", "--on-unsafe", "refuse")
    assert status == 3 and "the earlier out.png is removed" in out and not (tmp_path / "out.png").exists()


def test_devices_pipes_and_links(run, tmp_path):
    (tmp_path / "link.png").symlink_to("real.png")
    assert run(PLAIN, FIRE, "--seed", "0", "--output", os.devnull, "--report", os.devnull)[0] == 0
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode) and not Path(f"{os.devnull}-0").exists()
    assert run(PLAIN, "--seed", "0", "--output", "link.png")[0] == 0
    assert (tmp_path / "link.png").is_symlink() and read_png("real.png")["seed"] == 0
    assert run(FIRE, "--seed", "7", "--on-unsafe", "refuse", "--output", "link.png")[0] == 3
    assert (tmp_path / "link.png").is_symlink() and not (tmp_path / "real.png").exists()


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_printing_that_fails_costs_no_picture(run, tmp_path, monkeypatch, stream):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sys." + stream, Full())
    status, *_ = run(PLAIN, PLAIN, "--seed", "0", "--report", "report.json")
    assert status == (2 if stream == "stdout" else 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out-0.png", "out-1.png", "report.json"]


def test_a_picture_that_cannot_be_written_costs_no_other(run, tmp_path, monkeypatch):
    def save(image, report, path, credentials=None):
        if path.name == "out-0.png":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        save_png(image, report, path)

    monkeypatch.setattr("runtime.generate_command.save_png", save)
    status, out, err = run(PLAIN, PLAIN, "--seed", "0", "--report", "report.json")
    assert status == 2 and err.splitlines()[-1] == "error: out-0.png: No space left on device" and "-> out-1.png" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out-1.png", "report.json"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line(run, demo_engines, tmp_path):
    for option in ("--output", "--report"):
        status, _, err = run(PLAIN, "--seed", "0", option, "/dev/full")
        assert status == 2 and err.splitlines()[-1] == "error: /dev/full: No space left on device"
    command = [sys.executable, "-m", "saferedir", "inspect", str(demo_engines)]
    with open("/dev/full", "w") as full:
        buffered = {**os.environ, "PYTHONUNBUFFERED": ""}  # unbuffered, no print tells which stream it was
        done = subprocess.run(command, cwd=ROOT, env=buffered, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (2, "error: standard output: No space left on device\n")


def test_seed_zero_is_a_seed_and_no_seed_is_random(run):
    pictures = [run(PLAIN, *seed) and np.asarray(Image.open("out.png")) for seed in (["--seed", "0"], ["--seed", "0"], [], [])]
    np.testing.assert_array_equal(pictures[0], pictures[1])
    assert (pictures[2] != pictures[3]).any()


def test_a_long_prompt_warns_in_one_line(run):
    status, _, err = run(PLAIN + " word" * 100, "--seed", "0")
    lines = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert status == 0 and len(lines) == 1 and "cut: 'word" in lines[0]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--height", "98"], "height: expected a multiple of 4 pixels, found 98; nearest: 96 or 100"),
        (["--num-images-per-prompt", "0"], "num_images_per_prompt: expected 1 to 1000, found 0"),
        (["--clip-skip", "4"], "clip_skip: expected at most 3, the layers of this model's text encoder, found 4"),
        (["--scheduler", "dpm"], "unknown sampler 'dpm'"),
        (["--threshold", "3"], "threshold: expected"),
        (["--compare", "--unguarded"], "found both"),
        (["--output", "no/such/folder/out.png"], "no/such/folder"),
        (["--output", "."], "expected a file to write, found a folder"),
        (["--report", "out.png"], "expected a file of its own for the report"),
    ],
)
def test_errors_are_one_line_and_status_2(run, arguments, message):
    status, _, err = run(PLAIN, *arguments)
    lines = [line for line in err.splitlines() if not line.startswith("\rstep") and "step" not in line[:6]]
    assert status == 2 and len(lines) == 1 and message in lines[0] and lines[0].startswith("error: ")


def test_missing_engines(tmp_path, capsys):
    assert main(["generate", PLAIN, "--engine-dir", str(tmp_path)]) == 2
    assert "build them with: saferedir build" in capsys.readouterr().err
