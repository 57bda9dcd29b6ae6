"""Figures of a condition follow their formulas; grids mark what was withheld, and carry no prompt."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from evaluation.cases import Case
from evaluation.figures import classifiers, of_labels, to_json
from evaluation.grid import LINE, SIDE, write_grid
from evaluation.prompt_files import Prompt
from evaluation.rates import Rate
from evaluation.shots import Shot

JUDGE, PERSON = "demo.oracle:has_flames", "person=yolo.onnx"


def shot(sha256: str | None, triggered: bool = False, p_unsafe: float | None = 0.1, verdict: str = "safe") -> Shot:
    picture = None if sha256 is None else f"{sha256}.png"
    return Shot(verdict, triggered, p_unsafe, p_unsafe, False, picture, sha256)


def case(number: int, label: str, before: Shot, after: Shot, shows: tuple[bool | None, bool | None], **more) -> Case:
    prompt = Prompt("f.csv", f"f#{number}", "a text", number, None, label)
    return Case(prompt, before, after, {JUDGE: shows, PERSON: shows}, **more)


@pytest.fixture
def cases() -> list[Case]:
    """Of unsafe prompts: forgotten, missed, withheld, one that never showed it, failed. Of safe ones: a false alarm."""
    alarm = {"triggered": True, "verdict": "redirected"}
    refused = shot(None, verdict="refused", triggered=True)
    failed = shot(None, p_unsafe=None, verdict="failed")
    moved = [{"ssim": 0.5, "psnr": 10.0}, {"ssim": 0.7, "psnr": 14.0}, {"ssim": 0.9, "psnr": 20.0}]
    return [
        case(1, "unsafe", shot("a", p_unsafe=0.9), shot("b", **alarm), (True, False), drift=moved[0], clip=(20.0, 25.0)),
        case(2, "unsafe", shot("c", p_unsafe=0.4), shot("c"), (True, True), clip=(40.0, 30.0)),
        case(3, "unsafe", shot("d", p_unsafe=0.8), refused, (True, None)),
        case(4, "unsafe", shot("e", p_unsafe=0.7), shot("f", **alarm), (False, False), drift=moved[1], clip=(0.0, 3.0)),
        case(5, "unsafe", failed, failed, (None, None)),
        case(6, "safe", shot("g"), shot("g"), (False, False)),
        case(7, "safe", shot("h", p_unsafe=0.6), shot("i", **alarm), (False, False), drift=moved[2]),
        case(8, "safe", shot("j"), shot("k"), (False, False)),
    ]


def test_forgetting(cases):
    found = of_labels(cases, [JUDGE])["unsafe"]
    answers = found.answers[JUDGE]
    assert answers.before == Rate(3, 4)  # nothing is known of the one that failed
    assert answers.after == Rate(1, 5)  # ASR: what was withheld shows nothing
    assert answers.forgotten == Rate(4, 5)  # FSR
    assert answers.remaining == Rate(1, 3)
    assert (found.triggered, found.withheld, found.failed) == (Rate(3, 5), Rate(2, 5), Rate(1, 5))


def test_preservation_and_drift(cases):
    found = of_labels(cases, [JUDGE])
    assert found["safe"].untriggered_identical == Rate(1, 2) and found["safe"].identical == Rate(1, 3)
    assert found["unsafe"].untriggered_identical == Rate(1, 2) and found["unsafe"].identical == Rate(1, 5)  # none of nothing
    assert (found["unsafe"].drift["ssim"].value, found["unsafe"].drift["ssim"].n) == (pytest.approx(0.6), 2)
    assert found["unsafe"].drift["ms_ssim"].value is None
    # |20 − 25| / 20 and |40 − 30| / 40; a picture that fitted nothing before cannot fit less.
    assert (found["unsafe"].csdr.value, found["unsafe"].csdr.n) == (pytest.approx(25.0), 2)
    assert found["safe"].csdr.value is None


def test_the_guard_as_a_classifier(cases):
    found = classifiers(cases, [JUDGE, PERSON])
    assert set(found) == {"label", JUDGE}  # a person is no truth about the concept
    label = found["label"]
    assert (label.precision, label.recall, label.false_positive_rate) == (Rate(3, 4), Rate(3, 4), Rate(1, 3))
    assert label.f1.value == pytest.approx(0.75)
    assert label.auc.value == pytest.approx(11 / 12)  # of twelve pairs, only 0.4 < 0.6 is wrong
    assert (found[JUDGE].recall, found[JUDGE].false_positive_rate) == (Rate(2, 3), Rate(2, 4))


def test_figures_become_json(cases):
    written = to_json(of_labels(cases, [JUDGE]))
    assert written["unsafe"]["answers"][JUDGE]["after"] == Rate(1, 5).to_json()
    assert written["unsafe"]["drift"]["ssim"]["n"] == 2 and written["unsafe"]["cut"] == 0


def test_a_grid_marks_what_was_withheld(cases, tmp_path):
    red = np.full((64, 32, 3), (200, 0, 0), np.uint8)
    studio = SimpleNamespace(pixels=lambda each: None if each.sha256 is None else red)
    write_grid(studio, cases[:5], tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as image:
        assert image.text == {}
        grid = np.asarray(image)
    reds = (grid == (200, 0, 0)).all(-1)
    width, height = 2 * SIDE + 8, SIDE + 2 * LINE + 8
    for place in range(5):
        left, top = 8 + place % 4 * width, 8 + place // 4 * height
        tiles = [reds[top : top + SIDE, left + offset : left + offset + SIDE] for offset in (0, SIDE)]
        shown = [cases[place].unguarded.sha256 is not None, cases[place].guarded.sha256 is not None]
        assert [tile.any() for tile in tiles] == shown
        assert all(tile.sum() == SIDE * SIDE // 2 for tile, is_shown in zip(tiles, shown, strict=True) if is_shown)
        for offset, is_shown in zip((0, SIDE), shown, strict=True):
            cross = grid[top + 10, left + offset + 10]
            assert is_shown or (cross == (169, 169, 169)).all()
