"""`saferedir evaluate` on the demo's engines: pictures, figures, reports; killed, continued, and silent about prompts."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from demo.oracle import has_flames
from engines.errors import InputError, NonFiniteError
from evaluation.prompt_files import Prompt, Reading, read_prompts
from evaluation.shots import Studio
from runtime import Policy
from saferedir.cli import main

ROOT = Path(__file__).resolve().parent.parent.parent
PAIRS = str(ROOT / "docs" / "evaluation" / "fire_pairs.csv")
JUDGE = "demo.oracle:has_flames"
STEPS, BATCH, PROMPTS = 6, 4, 6
SECRET = "quicksilver"


def arguments(engines: Path, output: Path, *more: str, prompts: str = PAIRS) -> list[str]:
    fixed = ["--judge", JUDGE, "--num-inference-steps", str(STEPS), "--scheduler", "ddim", "--batch-size", str(BATCH)]
    return ["evaluate", str(engines), "--prompts", prompts, "--limit", str(PROMPTS), "--output", str(output), *fixed, *more]


@pytest.fixture(scope="module")
def output(demo_engines, tmp_path_factory) -> Path:
    """An evaluation of six prompts, as given and with unsafe pictures refused."""
    folder = tmp_path_factory.mktemp("evaluation")
    assert main(arguments(demo_engines, folder, "--vary", "on_unsafe", "refuse")) == 0
    return folder


@pytest.fixture(scope="module")
def report(output) -> dict:
    return json.loads((output / "report.json").read_text())


def pixels(output: Path, shot: dict) -> np.ndarray:
    with Image.open(output / shot["picture"]) as image:
        assert image.text == {}
        return np.asarray(image)


def test_pictures_are_those_of_the_pipeline(output, report, pipeline):
    """Without the guard, and with it, from the same seeds: bit for bit."""
    prompts = read_prompts(PAIRS, Reading(limit=PROMPTS)).prompts
    cases = report["trials"][0]["cases"]
    for start in range(0, PROMPTS, BATCH):
        part = prompts[start : start + BATCH]
        options = {"seed": [prompt.seed for prompt in part], "num_inference_steps": STEPS, "scheduler": "ddim"}
        for side, unguarded in (("unguarded", True), ("guarded", False)):
            result = pipeline([prompt.text for prompt in part], unguarded=unguarded, **options)
            for each, image in zip(cases[start:], result.images, strict=False):
                assert (pixels(output, each[side]) == np.asarray(image)).all()


def test_figures_are_those_of_the_pictures(output, report):
    trial = report["trials"][0]
    for label in ("unsafe", "safe"):
        cases = [case for case in trial["cases"] if case["label"] == label]
        assert len(cases) == PROMPTS // 2
        for name, side in (("before", "unguarded"), ("after", "guarded")):
            hits = sum(has_flames(pixels(output, case[side])) for case in cases)
            found = trial["figures"][label]["answers"][JUDGE][name]
            assert (found["hits"], found["of"]) == (hits, len(cases)) and len(found["interval_95"]) == 2
    assert trial["figures"]["unsafe"]["triggered"]["hits"] == trial["figures"]["unsafe"]["drift"]["ssim"]["n"] > 0
    assert trial["figures"]["safe"]["untriggered_identical"]["hits"] > 0
    assert set(trial["classifier"]) == {"label", JUDGE}


def test_the_watched_run_tells_every_thresholds_decision(report):
    threshold = report["engines"][0]["guards"][0]["policy"]["threshold"]
    for case in report["trials"][0]["cases"]:
        assert case["guarded"]["triggered"] == (case["unguarded"]["p_unsafe"] > threshold)


def test_a_case_is_told_by_number_and_digest(report):
    prompt = read_prompts(PAIRS, Reading(limit=PROMPTS)).prompts[0]
    case = report["trials"][0]["cases"][0]
    assert case["case"] == "fire_pairs#0 unsafe" and case["seed"] == prompt.seed == 0
    assert case["prompt_sha256"] == hashlib.sha256(prompt.text.encode()).hexdigest()
    assert report["prompt_files"][0]["sha256"] == hashlib.sha256(Path(PAIRS).read_bytes()).hexdigest()


def test_refused_pictures_are_withheld_and_counted(report, output):
    trial = report["trials"][1]
    assert trial["condition"] == "on_unsafe=refuse"
    unsafe = trial["figures"]["unsafe"]
    assert unsafe["withheld"]["hits"] == unsafe["triggered"]["hits"] > 0
    withheld = [case for case in trial["cases"] if case["guarded"]["picture"] is None]
    assert all(case["guarded"]["verdict"] == "refused" and case["shows"][JUDGE][1] is None for case in withheld)
    assert len(withheld) == unsafe["withheld"]["hits"]


def test_the_report_shows_tables_and_grids(report, output):
    text = (output / "report.md").read_text(encoding="utf-8")
    assert "## Options as given" in text and "## on_unsafe" in text and "with guard (ASR)" in text
    grids = [grid for trial in report["trials"] for grid in trial["grids"]]
    assert len(grids) >= 4 and all((output / grid).is_file() and f"({grid})" in text for grid in grids)


KILLED = """
import os, signal, sys
from PIL import Image
from saferedir.cli import main
save, saved = Image.Image.save, []
def killing(*arguments, **options):
    saved.append(1)
    if len(saved) == {saves}:
        os.kill(os.getpid(), signal.SIGKILL)
    return save(*arguments, **options)
Image.Image.save = killing
main(sys.argv[1:])
"""


def test_a_kill_loses_one_batch_at_most(demo_engines, output, tmp_path, monkeypatch):
    """Killed between the pictures of the second batch, and started again."""
    script = KILLED.format(saves=BATCH + 2)
    command = arguments(demo_engines, tmp_path, "--vary", "on_unsafe", "refuse")
    killed = subprocess.run([sys.executable, "-c", script, *command], cwd=ROOT, capture_output=True)
    assert killed.returncode == -9
    kept = list((tmp_path / "batches").iterdir())
    assert len(kept) == 1 and not (tmp_path / "report.json").exists()
    made = []
    make = Studio._make
    monkeypatch.setattr(Studio, "_make", lambda *each: (made.append(1), make(*each))[1])
    assert main(command) == 0
    uninterrupted, continued = (json.loads((folder / "report.json").read_text()) for folder in (output, tmp_path))
    assert continued["trials"] == uninterrupted["trials"]
    assert len(made) == len(list((output / "batches").iterdir())) - 1


def test_engine_folders_are_compared(demo_engines, output, tmp_path, monkeypatch):
    """The copy has the same manifest, so that nothing is made again."""
    copy, folder = shutil.copytree(demo_engines, tmp_path / "copy"), shutil.copytree(output, tmp_path / "output")
    monkeypatch.setattr(Studio, "_make", lambda *each: pytest.fail("made again"))
    command = arguments(demo_engines, folder)
    assert main([*command[:2], str(copy), *command[2:]]) == 0
    assert "| demo: as given |" in (folder / "report.md").read_text() and "| copy: as given |" in (folder / "report.md").read_text()


def test_an_altered_picture_is_told(demo_engines, output, report, tmp_path, capsys):
    folder = shutil.copytree(output, tmp_path / "output")
    picture = folder / report["trials"][0]["cases"][0]["unguarded"]["picture"]
    Image.new("RGB", (64, 64)).save(picture)
    assert main(arguments(demo_engines, folder)) == 2
    assert f"{picture}: expected the picture that was made, found an altered one" in capsys.readouterr().err


def test_no_prompt_is_printed_or_written(demo_engines, tmp_path, capfd):
    """Also not of one that is cut after 77 tokens, of which the pipeline warns."""
    (tmp_path / "prompts.txt").write_text(f"burning {SECRET} star\n{f'{SECRET} ' * 90}\n")
    prompts = f"{tmp_path / 'prompts.txt'}:unsafe"
    command = arguments(demo_engines, tmp_path / "output", "--num-inference-steps", "2", prompts=prompts)
    assert main(command) == 0
    printed = capfd.readouterr()
    written = [path.read_bytes() for path in (tmp_path / "output").rglob("*") if path.is_file()]
    assert len(written) >= 7 and not any(SECRET.encode() in content for content in written)
    assert SECRET not in printed.out + printed.err
    figures = json.loads((tmp_path / "output" / "report.json").read_text())["trials"][0]["figures"]
    assert figures["unsafe"]["cut"] == 1


def test_an_error_of_the_text_encoder_does_not_print_the_prompt(tmp_path):
    def pipeline(prompts, **options):
        raise NonFiniteError(f"text_encoder: returned NaN or infinity for {prompts[0]!r}; no image was generated")

    studio = Studio(pipeline, "0" * 64, tmp_path, batch_size=4)
    options = {"default_guidance_scale": 7.5}
    with pytest.raises(NonFiniteError, match="a prompt of .*f#1") as raised:
        studio.shots([Prompt("f.csv", "f#1", SECRET, 0, None, "unsafe")], options, guarded=False, progress=lambda made: None)
    assert SECRET not in str(raised.value)


def test_options_of_files_and_conditions(tmp_path):
    """A file's guidance goes before the command's, a condition's before both; the counterpart is a negative prompt."""
    guard = SimpleNamespace(concept="fire", policy=Policy(threshold=0.4))
    studio = Studio(SimpleNamespace(manifest=SimpleNamespace(guards=[guard])), "0" * 64, tmp_path, 4, (64, None))
    prompts = [Prompt("f.csv", "f#1", "a", 5, None, "unsafe", "plain"), Prompt("f.csv", "f#2", "b", 6, 3.0, "safe")]
    given = {"default_guidance_scale": 7.5, "check": None, "negative_prompt": "@counterpart", "alpha_scale": 2.0}
    found = studio._arguments(prompts, given)
    assert found["guidance_scale"] == [7.5, 3.0] and found["seed"] == [5, 6] and (found["height"], found["width"]) == (64, None)
    assert found["negative_prompt"] == ["plain", ""] and "check" not in found
    assert found["policy"]["fire"].alpha_scale == 2.0 and found["policy"]["fire"].threshold == 0.4
    assert studio._arguments(prompts, given | {"guidance_scale": 9.0})["guidance_scale"] == 9.0
    with pytest.raises(InputError, match="expected prompts with a counterpart, found none for 'f#1'"):
        studio._arguments([Prompt("f.csv", "f#1", "a", 5, None, "unsafe")], given)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--batch-size", "0"], "--batch-size: expected at least 1, found 0"),
        (["--limit", "0"], "--limit: expected at least 1, found 0"),
        (["--judge", JUDGE], "--judge: expected names of their own"),
        (["--prompts", PAIRS, f"elsewhere/{Path(PAIRS).name}"], "--prompts: expected names of their own"),
        (["--sensitive-words", PAIRS], "expected --clip-model too"),
        (["--vary", "prompt", "x"], "--vary: expected one of"),
        (["--clip-model", "nowhere"], "expected a folder with a CLIP model"),
        ([], "no engines here"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_options_are_one_line(more, message, demo_engines, tmp_path, capsys):
    engines = demo_engines if more else tmp_path / "engines"
    assert main(arguments(engines, tmp_path / "output", *more)) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "output").exists()
