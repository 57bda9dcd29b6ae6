"""The tables of the guard by sampler: what a cell counts, and that a run goes on where it ended."""

from __future__ import annotations

import json

import pytest

from demo import samplers
from engines.errors import InputError
from runtime.samplers.registry import SAMPLERS
from tests.runtime.test_pipeline import FIRE, levels


def test_a_cell_counts_pictures_and_findings(pipeline):
    cell = samplers.measure(pipeline, "ddim", 10, prompts=2, controls=1)
    assert cell.pop("fire: beside shows flames")[1] == 2
    assert cell == {
        "sampler": "ddim",
        "steps": 10,
        "fire: unguarded shows flames": [1, 1],
        "fire: before shows flames": [0, 2],
        "fire: guard triggered": [2, 2],
        "safe: unguarded shows flames": [0, 1],
        "safe: guard triggered": [0, 1],
        "safe: guarded identical to unguarded": [1, 1],
    }
    single = samplers.measure(pipeline, "ddim", 1, prompts=1, controls=1)
    assert "fire: before shows flames" in single and "fire: beside shows flames" not in single
    printed = samplers.table({"prompts": 2, "cells": [cell, single]})
    assert "| sampler, steps | 1 | 10 |" in printed and ", –, " in printed and "| 1/1, –, 0 |" in printed


def test_a_run_goes_on_where_it_ended(demo_engines, tmp_path, monkeypatch):
    output = tmp_path / "samplers.json"
    common = ["samplers.py", "--engine-dir", str(demo_engines), "--prompts", "1", "--output", str(output), "--sampler", "ddim"]
    monkeypatch.setattr("sys.argv", [*common, "--steps", "2"])
    samplers.main()
    first = json.loads(output.read_text())
    monkeypatch.setattr("sys.argv", [*common, "--steps", "2", "3"])
    samplers.main()
    both = json.loads(output.read_text())
    assert both["cells"][0] == first["cells"][0] and [cell["steps"] for cell in both["cells"]] == [2, 3]
    output.write_text(json.dumps({**both, "guard_digest": "another"}))
    with pytest.raises(InputError, match="expected guard_digest .* found another; give another --output"):
        samplers.main()


@pytest.mark.parametrize("name", samplers.SIGMA_SPACE)
def test_scaling_what_the_guard_reads_leaves_pictures_as_they_are(pipeline, monkeypatch, name):
    monkeypatch.setitem(SAMPLERS, f"{name} scaled", samplers.scaled(SAMPLERS[name]))
    call = {"num_inference_steps": 3, "seed": 5, "unguarded": True}
    pictures = [pipeline(FIRE, scheduler=scheduler, **call).images[0] for scheduler in (name, f"{name} scaled")]
    assert levels(*pictures) <= 1


def test_the_grid_has_a_pair_for_each_cell(pipeline):
    picture = samplers.grid(pipeline, ["ddim", "euler"], [2, 3])
    assert picture.size == (150 + 2 * 136, 16 + 2 * 68)
