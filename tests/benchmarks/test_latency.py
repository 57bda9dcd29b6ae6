"""The whole benchmark, tiny: its document fits the schema, its files are there and say what was measured."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import jsonschema
import pytest
from PIL import Image

from benchmarks.latency import main
from benchmarks.loading import cold_start
from benchmarks.peers.catalog import PEERS
from benchmarks.suite import page
from benchmarks.suite.document import device_mebibytes, table
from benchmarks.suite.settings import FULL, FULL_QUICK, SMALL, SMALL_QUICK, parser, peer_names, settings_for
from engines.geometry import Geometry

RESULTS = Path(__file__).resolve().parent.parent.parent / "benchmarks" / "results"
SCHEMA = json.loads((RESULTS.parent / "suite" / "latency.schema.json").read_text(encoding="utf-8"))
OPTIONS = [
    "--name",
    "measured-here",
    "--num-inference-steps",
    "2",
    "--rounds",
    "2",
    "--cold-starts",
    "0",
    "--extrapolate-to",
    "20",
    "--grid",
    "--grid-batch-sizes",
    "1",
    "2",
    "--grid-sizes",
    "32",
    "48",
    "--grid-steps",
    "2",
    "--grid-rounds",
    "1",
]


def check_schema(document) -> None:
    jsonschema.Draft202012Validator(SCHEMA).validate(document)


@pytest.fixture(scope="module")
def measured(demo_engines, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results") / "not" / "there yet"
    assert main(["--model", str(demo_engines), "--output", str(folder), *OPTIONS]) == 0
    return folder, json.loads((folder / "latency-measured-here.json").read_text())


def test_document_fits_the_schema(measured):
    check_schema(measured[1])
    with pytest.raises(jsonschema.ValidationError):
        check_schema({**measured[1], "unknown": 1})


@pytest.mark.parametrize("path", sorted(RESULTS.glob("latency-*.json")), ids=lambda path: path.stem)
def test_published_results_fit_the_schema(path):
    check_schema(json.loads(path.read_text(encoding="utf-8")))


def test_the_page_shows_the_published_results():
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.with_figures(text, RESULTS) == text, "write it again with: python -m benchmarks.suite.page"


def test_the_page_prints_no_interval_from_fewer_than_three_pairs():
    """The documents of before that rule have numbers there."""
    text, few = page.PAGE.read_text(encoding="utf-8"), 0
    for path in RESULTS.glob("latency-*.json"):
        document = json.loads(path.read_text(encoding="utf-8"))
        lines = text.split(f"### {document['target']['name']}\n")[1].split("\n### ")[0].splitlines()
        for cost in document["cost_of_guard"]:
            (line,) = (line for line in lines if line.startswith(f"| {cost['mode']} | {cost['method']} |"))
            assert line.endswith(f"| {cost['count']} |") and line.count("%") == (5 if cost["count"] >= 3 else 1)
            few += cost["count"] < 3
        for peer in document["peers"]:
            (line,) = (line for line in lines if line.startswith(f"| {peer['peer']}: "))
            if peer["failure"] is None:
                assert ("no interval" in line) == (peer["ratio"]["count"] < 3)
            else:
                assert f"| failed: {peer['failure']} |" in line
    assert few and text.count("no interval") > few


def test_page_holds_every_figure_of_a_document(measured):
    text = page.with_figures(f"before\n{page.START}\noutdated\n{page.END}\nafter", measured[0])
    assert text.startswith("before") and text.endswith("after") and "outdated" not in text
    for phrase in (
        "| [measured-here](#measured-here) |",
        "### measured-here",
        "**extrapolated** to 20 steps",
        "guard × 3 or 2 |",
        "latency-measured-here-timeline.png",
        "| n = 2, no interval |",
        "Peaks of the machine",
    ):
        assert phrase in text
    with pytest.raises(ValueError, match="found it 0 times"):
        page.with_figures("no markers", measured[0])


def test_figures_agree_with_each_other(measured):
    document = measured[1]
    guarded = next(mode for mode in document["modes"] if mode["mode"] == "guarded, safe")
    share = {row["network"]: row["share"] for row in guarded["networks"]}
    assert share["pipeline"] == 1 and sum(share.values()) - 1 <= 1.05
    assert {row["network"]: row["calls"] for row in guarded["networks"]}["guard"] == 2 + 1  # steps, and the final check
    assert guarded["checks_per_image"] == [2]
    inside = next(found for found in document["cost_of_guard"] if found["mode"] == "guarded, safe")
    assert inside["method"] == "inside each run" and inside["count"] == 2 and inside["low"] is inside["high"] is None
    assert inside["median"] == pytest.approx(1 / (1 - share["guard"]), rel=0.2)
    assert len(document["grid"]) == 4 and {curve["network"] for curve in document["curves"]} == {"unet", "guard", "sampler_step"}
    for found, mode in zip(document["extrapolated"], document["modes"], strict=True):
        row = {row["network"]: row["milliseconds"]["median"] for row in mode["networks"]}
        assert found["steps"] == 20 and found["seconds"] * 1000 > row["pipeline"] + 17 * row["unet"]
    assert {row["network"] for row in document["floor"]["networks"]} == set(share) - {"pipeline", "outside engines, per step"}


def test_table_and_files(measured):
    folder, document = measured
    text = table(document)
    for phrase in (
        "what the guard adds",
        "n = 2, no interval",
        "images per second, n = 2 runs",
        "extrapolated to 20 steps from 2",
        "ok   safe prompts are checked",
        "peaks: GEMM",
    ):
        assert phrase in text
    with open(folder / "latency-measured-here.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sum(row["network"] == "pipeline" for row in rows) == 6
    assert sum(int(row["calls"]) for row in rows if row["network"] == "guard") == 2 * (
        2 + 1 + 1 + 1
    )  # rounds; safe, triggering, each with a final check
    for name in ("overhead", "networks", "timeline", "curves"):
        with Image.open(folder / f"latency-measured-here-{name}.png") as image:
            assert image.width > 1000 and len(image.convert("RGB").getcolors(1 << 24)) > 20


def test_cold_start_in_a_process_of_its_own(demo_engines):
    found = cold_start.measure(demo_engines, ["a blue square"], {"num_inference_steps": 1, "seed": 0})
    assert set(found["seconds"]) == set(cold_start.PHASES) and min(found["seconds"].values()) > 0
    assert found["to_first_image"] == pytest.approx(sum(found["seconds"].values()) - found["seconds"]["second image"])
    memory = list(found["peak_memory_bytes"].values())
    assert memory == sorted(memory) and 2e7 < memory[0] < memory[-1] < 2e9
    assert found["device_memory_bytes"] == dict.fromkeys(cold_start.PHASES[1:])  # on a CPU
    with pytest.raises(RuntimeError, match="expected 1 to 1000"):
        cold_start.measure(demo_engines, ["a blue square"], {"num_inference_steps": 0})


def test_cold_starts_come_in_turns_after_one_that_is_not_kept(monkeypatch):
    seen = []

    def measured(engine_dir, prompts, options):
        seen.append(prompts)
        return {
            "to_first_image": len(seen),
            "seconds": dict.fromkeys(cold_start.PHASES, 1.0),
            "peak_memory_bytes": dict.fromkeys(cold_start.PHASES, len(seen)),
            "device_memory_bytes": dict.fromkeys(cold_start.PHASES[1:], None if prompts == "A" else len(seen)),
        }

    monkeypatch.setattr(cold_start, "measure", measured)
    calls = {"a": ("A", {}), "b": ("B", {})}
    found = cold_start.compare(Path(), calls, 2, lambda: None)
    assert seen == ["A", "B", "B", "A", "A", "B"]
    assert [(one["mode"], one["to_first_image_seconds"]["median"]) for one in found] == [("a", 4.5), ("b", 4.5)]
    assert [one["device_memory_bytes"]["load"] for one in found] == [None, 6]
    assert [device_mebibytes({"device_memory_bytes": {"load": size}}) for size in (None, 3 << 20)] == ["none", "3"]
    assert found[0]["peak_memory_bytes"]["load"] == 5 and cold_start.compare(Path(), calls, 0, lambda: None) == []


def test_settings_follow_the_size_of_the_model_and_the_options():
    demo, full = Geometry(96, 4, 64, 64, 2), Geometry(768, 8, 512, 512, 12)

    def chosen(*given, geometry=demo):
        return settings_for(parser().parse_args(list(given)), geometry)

    assert chosen() == SMALL and chosen("--quick") == SMALL_QUICK
    assert chosen(geometry=full) == FULL and chosen("--quick", geometry=full) == FULL_QUICK
    assert chosen("--rounds", "3", "--grid-steps", "7").rounds == 3 and chosen("--grid-steps", "7").grid.steps == [7]
    assert peer_names(parser().parse_args([])) == []
    assert len(peer_names(parser().parse_args(["--peers"]))) == len(PEERS) - 1
    assert peer_names(parser().parse_args(["--peers", "diffusers"])) == ["diffusers"]
    assert parser().parse_args(["--peer-python", "openvino=/e/bin/python"]).peer_python == [("openvino", "/e/bin/python")]
    for wrong in ("openvino", "openvino=", "nothing=/e/bin/python"):
        with pytest.raises(SystemExit):
            parser().parse_args(["--peer-python", wrong])


def test_a_name_with_a_path_in_it_is_one_line(capsys):
    with pytest.raises(SystemExit):
        main(["--name", "../elsewhere"])
    assert "expected letters" in capsys.readouterr().err


def test_engines_that_are_not_there_are_one_line(tmp_path, capsys):
    assert main(["--model", str(tmp_path)]) == 2
    assert "no engines here" in capsys.readouterr().err
