"""The report has a row for each file of prompts and each condition, and no text of a prompt."""

from __future__ import annotations

import json

import pytest

from evaluation.cases import Case
from evaluation.conditions import Condition
from evaluation.prompt_files import Prompt, PromptFile
from evaluation.report import Evaluation, write_report
from evaluation.shots import Shot
from evaluation.trials import Trial

JUDGE = "demo.oracle:has_flames"
SECRET = "quicksilver"


def trial(condition: Condition, forgotten: int) -> Trial:
    """Of two files with four unsafe prompts each; of the second, none is forgotten."""
    cases = []
    for file in ("seen.txt", "unseen.txt"):
        for number in range(4):
            prompt = Prompt(file, f"{file[:-4]}#{number}", SECRET, number, None, "unsafe")
            shows = file == "unseen.txt" or number >= forgotten
            shot = Shot("redirected", True, 0.9, 0.1, False, None, f"{number}")
            cases.append(Case(prompt, shot, shot, {JUDGE: (True, shows)}))
    return Trial("demo", condition, dict(condition.changes), cases, ["grids/00-unsafe.png"])


@pytest.fixture
def written(tmp_path):
    given = trial(Condition(), 4)
    files = [
        PromptFile(name, "plain text", "0" * 64, [case.prompt for case in given.cases if case.prompt.file == name], 1)
        for name in ("seen.txt", "unseen.txt")
    ]
    engines = {"name": "demo", "model": "model", "backend": "onnxruntime", "guards": [{"concept": "fire"}]}
    checks = [trial(Condition((("check", check),)), forgotten) for check, forgotten in (("before", 4), ("beside", 1))]
    write_report(Evaluation("saferedir evaluate x | y", {}, [engines], files, [JUDGE], [[given], checks]), tmp_path)
    return (tmp_path / "report.md").read_text(encoding="utf-8"), json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))


def test_files_have_rows_of_their_own(written):
    text, report = written
    base = text[text.index("## Options as given") : text.index("## check")]
    assert "| as given | 8 of 8, 100.0% (67.6–100.0) | 4 of 8, 50.0% (21.5–78.5) |" in base
    assert "| seen.txt | 4 of 4, 100.0% (51.0–100.0) | 0 of 4, 0.0% (0.0–49.0) |" in base
    assert "| unseen.txt | 4 of 4, 100.0% (51.0–100.0) | 4 of 4, 100.0% (51.0–100.0) |" in base
    found = report["trials"][0]["figures_of_files"]
    hits = {name: each["unsafe"]["answers"][JUDGE]["after"]["hits"] for name, each in found.items()}
    assert hits == {"seen.txt": 0, "unseen.txt": 4}


def test_conditions_are_compared(written):
    text, report = written
    compared = text[text.index("## check") :]
    assert "| check=before | 8 of 8, 100.0% (67.6–100.0) | 4 of 8, 50.0% (21.5–78.5) |" in compared
    assert "| check=beside | 8 of 8, 100.0% (67.6–100.0) | 7 of 8, 87.5% (52.9–97.8) |" in compared
    assert "seen.txt" not in compared
    assert [each["condition"] for each in report["trials"]] == ["as given", "check=before", "check=beside"]


def test_no_text_of_a_prompt_is_in_it(written):
    text, report = written
    assert SECRET not in text and SECRET not in json.dumps(report)
    assert report["prompt_files"][0] == {
        "file": "seen.txt",
        "format": "plain text",
        "sha256": "0" * 64,
        "prompts": {"unsafe": 4},
        "rows_without_prompt": 1,
    }
