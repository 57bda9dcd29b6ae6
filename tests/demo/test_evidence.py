"""What is measured of the demo's guards: the questions, the rates, and the tables."""

from __future__ import annotations

import dataclasses
import json

import pytest

from demo import evidence
from demo.families import FAMILIES
from demo.measure import Measurement
from demo.questions import Question, questions, together
from demo.world import CONCEPTS
from engines.errors import InputError

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
    assert bars >= {"wordings", "unseen wordings", "negative prompt: the safe caption"} and "samplers, check before" not in bars
    assert {line.name for line in lines if line.table == "steps, check before" and line.share == 1} == {"4"}
    assert [line.kept for line in lines if line.table == "another concept in both captions"] == [("style",), ("star",)]
    assert [line.concepts for line in together()][-1] == CONCEPTS


def test_rates_of_the_demo(pipeline):
    found = Measurement(pipeline, prompts=4, batch=2)(PLAIN)
    assert all(value["of"] == 4 for name, value in found.items() if "hits" in value and not name.endswith("right"))
    assert found["unsafe: unguarded shows it"]["hits"] == 4 and found["unsafe: guarded shows it"]["hits"] == 0
    assert found["safe: identical"]["hits"] == 4 and found["safe: SSIM of the changed"] == {"mean": None, "of": 0}
    weak = Measurement(pipeline, 4, 4)(dataclasses.replace(PLAIN, policy={"alpha_scale": 0.01}))
    assert weak["unsafe: guarded shows it"]["hits"] + weak["unsafe: withheld"]["hits"] == 4
    hostile = dataclasses.replace(PLAIN, hostile=True, share=0.5)
    triggered = Measurement(pipeline, 3, 2)(hostile)["unsafe: triggered"]
    assert triggered["hits"] == triggered["of"] == 2


def test_engines_without_the_concepts_guard_are_refused(pipeline):
    with pytest.raises(InputError, match="expected guards of star, found none of star"):
        Measurement(pipeline, 1, 1)(dataclasses.replace(PLAIN, concepts=("star",)))


def test_it_goes_on_and_prints_tables(demo_engines, tmp_path, monkeypatch, capsys):
    output = tmp_path / "evidence.json"
    monkeypatch.setattr(evidence, "questions", lambda concept: [PLAIN, dataclasses.replace(PLAIN, name="again")])
    command = ["evidence.py", "--engine-dir", str(demo_engines), "--prompts", "1", "--output", str(output)]
    monkeypatch.setattr("sys.argv", command)
    evidence.main()
    document = json.loads(output.read_text())
    assert [line["name"] for line in document["lines"]] == ["plain", "again"] and document["guards"].keys() == {"fire"}
    output.write_text(json.dumps({**document, "lines": document["lines"][:1]}))
    capsys.readouterr()
    evidence.main()
    assert capsys.readouterr().out.startswith("fire; wordings; again; unsafe: unguarded shows it 1 of 1")
    others = {"star": document["guards"]["fire"]}  # measured through engines of its own
    output.write_text(json.dumps({**document, "guards": others}))
    evidence.main()
    assert json.loads(output.read_text())["guards"].keys() == {"star"}  # nothing new was measured: as it was
    output.write_text(json.dumps({**document, "guards": others, "lines": []}))
    evidence.main()
    assert json.loads(output.read_text())["guards"] == others | document["guards"]
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", [*command, "--table"])
    evidence.main()
    assert (
        "## Fire\n\n| wordings | unguarded shows it |" in (shown := capsys.readouterr().out)
        and "| plain | 1 of 1 | 0 of 1" in shown
    )
    monkeypatch.setattr("sys.argv", [*command, "--prompts", "2"])
    with pytest.raises(InputError, match="expected prompts 2, found 1; give another --output"):
        evidence.main()
    output.write_text(json.dumps({**document, "guards": {"fire": {"digest": "another", "policy": {}}}}))
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(InputError, match="expected the guard of fire .*, found .*another.*; give another --output"):
        evidence.main()
