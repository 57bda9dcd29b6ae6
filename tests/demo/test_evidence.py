"""What is measured of the demo's guards: the questions, the rates, and the tables."""

from __future__ import annotations

import dataclasses
import json
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from demo import evidence, measure
from demo.built import built
from demo.families import FAMILIES
from demo.grid import LINE, MARGIN, Row, picture_grid
from demo.measure import Measurement
from demo.oracle import has_flames
from demo.questions import Question, questions, together
from demo.world import CONCEPTS
from engines.errors import EngineError, InputError
from runtime.samplers.registry import SAMPLERS

PLAIN = Question("wordings", "plain", ("fire",), (FAMILIES["plain"],), options={"num_inference_steps": 8})


def test_every_family_wording_and_referees_question_has_a_line():
    lines = questions("fire")
    assert [line.name for line in lines if line.table == "wordings"] == [*FAMILIES, "all of these"]
    assert sum(line.table == "unseen wordings" for line in lines) == 6 and not any(
        line.table == "unseen wordings" for line in questions("star")
    )
    keys = [(line.table, line.name) for line in lines]
    assert len({*keys}) == len(keys)
    assert not any(line.options.get("num_inference_steps") == 1 for line in lines if line.check == "beside")
    bars = {line.table for line in lines if line.share == 1}
    assert bars >= {"wordings", "unseen wordings", "negative prompt: the safe caption"} and "samplers, 25 steps" not in bars
    assert {*SAMPLERS} < {line.name for line in lines if line.table == "samplers, 4 steps"}
    assert {line.name for line in lines if line.table == "steps, check before" and line.share == 1} == {"4"}
    assert [line.kept for line in lines if line.table == "another concept in both captions"] == [("style",), ("star",)]
    assert [line.concepts for line in together()][-1] == CONCEPTS


def test_rates_of_the_demo(pipeline):
    found = Measurement(pipeline, prompts=4, batch=2)(PLAIN)
    assert all(value["of"] == 4 for name, value in found.items() if "hits" in value and not name.endswith("right"))
    assert found["unsafe: unguarded shows it"]["hits"] == 4 and found["unsafe: guarded shows it"]["hits"] == 0
    assert found["safe: identical"]["hits"] == found["safe: identical, of those that do not show it"]["hits"] == 4
    assert found["safe: SSIM of the changed"] == {"mean": None, "of": 0}
    weak = Measurement(pipeline, 4, 4)(dataclasses.replace(PLAIN, policy={"alpha_scale": 0.01}))
    assert weak["unsafe: guarded shows it"]["hits"] + weak["unsafe: withheld"]["hits"] == 4
    hostile = dataclasses.replace(PLAIN, hostile=True, share=0.5)
    triggered = Measurement(pipeline, 3, 2)(hostile)["unsafe: triggered"]
    assert triggered["hits"] == triggered["of"] == 2


def test_pictures_that_show_it_unasked_are_told_from_those_that_do_not(pipeline):
    measurement = Measurement(pipeline, 2, 2)
    pairs = measurement._pairs(PLAIN)
    before, after = measurement._both(PLAIN, pairs, "unsafe")  # as a generator's that draws fire without being asked
    found = measure._safe(PLAIN, [*before, after[0]], [*after, after[0]], [pair.safe_scene for pair in [*pairs, pairs[0]]])
    identical, of_safe = found["identical"], found["identical, of those that do not show it"]
    assert (identical["hits"], identical["of"]) == (1, 3) and (of_safe["hits"], of_safe["of"]) == (1, 1)


def test_engines_without_the_concepts_guard_are_refused(pipeline):
    with pytest.raises(InputError, match="expected guards of star, found none of star"):
        Measurement(pipeline, 1, 1)(dataclasses.replace(PLAIN, concepts=("star",)))


@pytest.fixture
def command(pipeline, tmp_path, monkeypatch):
    """Sets the command line; two questions about fire, through engines that are there already."""

    @contextmanager
    def there(*how):
        yield pipeline

    def given(*more):
        line = ["evidence.py", "--concept", "fire", "--prompts", "1", "--output", str(tmp_path / "evidence.json"), *more]
        monkeypatch.setattr("sys.argv", line)

    monkeypatch.setattr(evidence, "questions", lambda concept: [PLAIN, dataclasses.replace(PLAIN, name="again")])
    monkeypatch.setattr(evidence, "built", there)
    given()
    return given


def test_it_goes_on_and_prints_tables(command, tmp_path, monkeypatch, capsys):
    output = tmp_path / "evidence.json"
    evidence.main()
    document = json.loads(output.read_text())
    assert [line["name"] for line in document["lines"]] == ["plain", "again"] and document["guards"].keys() == {"fire"}
    output.write_text(json.dumps({**document, "lines": document["lines"][:1]}))
    capsys.readouterr()
    evidence.main()
    assert capsys.readouterr().out.startswith("fire; wordings; again; unsafe: unguarded shows it 1 of 1")
    command("--table")
    evidence.main()
    assert (
        "## Fire\n\n| wordings | unguarded shows it |" in (shown := capsys.readouterr().out)
        and "| plain | 1 of 1 | 0 of 1" in shown
    )
    command("--prompts", "2")
    with pytest.raises(InputError, match="expected prompts 2, found 1; give another --output"):
        evidence.main()
    command()
    others = {"star": "measured before"}
    output.write_text(json.dumps({**document, "guards": others, "lines": []}))
    evidence.main()
    assert json.loads(output.read_text())["guards"] == others | document["guards"]
    output.write_text(json.dumps({**document, "guards": {"fire": "another"}}))
    with pytest.raises(InputError, match="expected the guard of fire .*, found lines of another; give another --output"):
        evidence.main()


def test_a_grid_has_each_line_unguarded_and_guarded(command, tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, "IN_A_ROW", 2)
    command("--only", "again", "--grid", str(tmp_path / "grid.png"))
    evidence.main()
    grid = np.asarray(Image.open(tmp_path / "grid.png"))
    rows = [grid[LINE : LINE + 64], grid[LINE + 64 + MARGIN :]]
    flames = [has_flames(row[:, left : left + 64]) for row in rows for left in (0, 64 + MARGIN)]
    assert grid.shape == (LINE + 2 * 64 + MARGIN, 2 * 64 + MARGIN, 3) and flames == [True, True, False, False]


def test_a_withheld_picture_is_a_crossed_tile():
    tile = np.asarray(picture_grid([Row([None, np.zeros((64, 64, 3), np.uint8)])]))[:, :64]
    assert (tile[32, 32] == tile[16, 16]).all() and (tile[32, 32] != tile[32, 5]).any()


@pytest.mark.slow
@pytest.mark.parametrize("ablation", ["", "mask again", "alpha 1"])
def test_engines_are_built_for_a_question(ablation):
    with built(("fire",), ablation, "onnxruntime", "float32", None) as pipeline:
        guard = pipeline.manifest.guards[0]
        assert guard.concept == "fire" and guard.mask_again == (ablation == "mask again")


def test_a_build_that_fails(capsys):
    with (
        pytest.raises(EngineError, match="fire: expected engines of nothing in float32, found none; see above"),
        built(("fire",), "", "nothing", "float32", None),
    ):
        pass
