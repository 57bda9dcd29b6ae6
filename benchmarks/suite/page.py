"""The figures of benchmarks/results/README.md, from the published documents beside it.

`python -m benchmarks.suite.page` writes them again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.catalog import OWN
from benchmarks.suite.document import device_mebibytes
from benchmarks.suite.figures import INSIDE
from benchmarks.suite.ratios import interval_text, range_text
from benchmarks.suite.sampling import GUARDED, TRIGGERED
from engines.store.atomic import replacing

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = RESULTS / "README.md"
START, END = "<!-- figures: written by benchmarks/suite/page.py -->", "<!-- end of figures -->"
PLOTS = {
    "overhead": "Cost of the guard by step count and by picture size",
    "networks": "Seconds by network for each mode",
    "timeline": "The first steps, call by call",
    "curves": "Cost of a call with fitted curves",
}


def update(page: Path = PAGE, results: Path = RESULTS) -> None:
    """Replace what stands between START and END."""
    text = with_figures(page.read_text(encoding="utf-8"), results)
    with replacing(page) as temporary:
        temporary.write_text(text, encoding="utf-8")


def with_figures(text: str, results: Path) -> str:
    """The page's text with the figures of every document in the folder `results`.

    Raises:
        ValueError: the page lacks a marker.
    """
    for marker in (START, END):
        if text.count(marker) != 1:
            raise ValueError(
                f"benchmarks/results/{PAGE.name}: expected the line {marker!r} once, found it {text.count(marker)} times"
            )
    before, rest = text.split(START)
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("latency-*.json"))]
    loads = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("load_time-*.json"))]
    figures = "\n".join(
        [
            *_overview(documents),
            *_peers_by_precision(documents),
            *(line for document in documents for line in section(document, results)),
            *(line for document in loads for line in load_section(document)),
        ]
    )
    return f"{before}{START}\n{figures}\n{END}{rest.split(END)[1]}"


def _overview(documents: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A line for each document: what the guard adds, inside each run, and the fastest peer whose pictures count; n of each."""
    rows = []
    for document in documents:
        target, work = document["target"], document["workload"]
        costs = {cost["mode"]: cost for cost in document["cost_of_guard"] if cost["method"] == INSIDE}
        inside = {mode: f"{_percent(cost['median'])} (n = {cost['count']})" for mode, cost in costs.items()}
        for row in document["extrapolated"]:
            if (mode := row["mode"]) in inside:
                inside[mode] += (
                    f"; {_percent(row['over_rest'])} **extrapolated** to {row['steps']} steps (n = {costs[mode]['count']})"
                )
        peers = {
            peer["peer"]: peer["ratio"]
            for peer in document["peers"]
            if peer["failure"] is None and peer["agreement"] != "different" and peer["peer"] not in OWN
        }
        nearest = min(peers, key=lambda name: peers[name]["median"], default=None)
        rows.append(
            [
                f"[{target['name']}](#{target['name']})",
                document["machine"]["processor"],
                f"{target['backend']}, {target['precision']}",
                f"{work['batch_size']} of {work['width']}×{work['height']}, {work['num_inference_steps']} steps",
                *inside.values(),
                "" if nearest is None else f"{peers[nearest]['median']:.2f} ({nearest}; n = {peers[nearest]['count']})",
            ]
        )
    yield ""
    yield from _rows(
        [
            "figures",
            "processor",
            "engines",
            "pictures",
            *(f"{mode}: the guard adds" for mode in (GUARDED, TRIGGERED)),
            "fastest peer, its time ÷ ours",
        ],
        rows,
    )


def _peers_by_precision(documents: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Every peer whose process was measured beside one of ours, by our engines' precision; ours guarded, peers unguarded."""
    rows = []
    for document in documents:
        target, work = document["target"], document["workload"]
        for peer in document["peers"]:
            if peer["failure"] is not None or "ours" not in peer or peer["resident_memory_bytes"] is None:
                continue
            sides, ratio = ((peer["ours"], peer["our_seconds"]), (peer, peer["seconds"])), peer["ratio"]
            rows.append(
                [
                    f"[{target['backend']}, {target['precision']}](#{target['name']})",
                    f"{work['width']}×{work['height']}, {peer['num_inference_steps']} steps",
                    peer["peer"],
                    f"{ratio['median']:.2f} ({interval_text(ratio, '{:.2f}'.format)}; n = {ratio['count']})",
                    ", ".join(f"{side['load_seconds']:.1f}" for side, _ in sides),
                    ", ".join(f"{side['first_seconds'] / later['median']:.2f}" for side, later in sides),
                    ", ".join(f"{side['resident_memory_bytes'] / 1e9:.1f}" for side, _ in sides),
                    f"{max(one['mean'] for one in peer['pictures'].values()):.2f}",
                ]
            )
    if rows:
        yield from ("", "Peers beside our engines, each in a process of its own: ours guarded, the peer as it is.", "")
        yield from _rows(
            [
                "our engines",
                "pictures",
                "peer",
                "its time ÷ ours (95 % interval)",
                "load, s: ours, peer",
                "first picture ÷ median of the later: ours, peer",
                "resident, GB: ours, peer",
                "pictures apart, mean grey levels",
            ],
            rows,
        )


def section(document: dict[str, Any], results: Path) -> Iterator[str]:
    """One document as Markdown."""
    target, work = document["target"], document["workload"]
    passed = f"{sum(check['passed'] for check in document['checks'])} of {len(document['checks'])}"
    yield from (
        "",
        f"### {target['name']}",
        "",
        _provenance(document),
        "",
        f"{work['batch_size']} image(s) of {work['width']}×{work['height']}, {work['num_inference_steps']} steps of "
        f"{work['scheduler'].upper()}, guidance {work['guidance_scale']}, {work['rounds']} round(s) after "
        f"{work['warm_up_rounds']} of warm-up; verdicts: {target['verdicts']}; {passed} checks of equal work passed.",
        "",
    )
    for part in (_cost, _networks, _floor, _cold_start, _peers):
        yield from part(document)
    for name, text in PLOTS.items():
        if (results / f"latency-{target['name']}-{name}.png").is_file():
            yield from (f"![{text}](latency-{target['name']}-{name}.png)", "")


def load_section(document: dict[str, Any]) -> Iterator[str]:
    """A document of `benchmarks/loading/load_time.py` as Markdown."""
    weights = document["weights_bytes"]
    moments = max((subject["memory_bytes"] for subject in document["subjects"].values()), key=len)
    yield from (
        "",
        f"### Loading {document['target']}",
        "",
        _provenance(document),
        "",
        f"{document['rounds']} rounds; the weights are {weights / 2**30:.3f} GiB.",
        "",
    )
    yield from _rows(
        [
            "process start to loaded",
            "s, median (p5 to p95)",
            "n",
            "diffusers ÷ this",
            "95 % interval",
            *(f"resident after {moment}, × weights" for moment in moments),
            "most ever resident, × weights",
        ],
        [
            [
                name,
                _spread(subject["seconds"], "{:.2f}".format),
                str(subject["seconds"]["count"]),
                f"{subject['diffusers_over_this']['median']:.2f}",
                interval_text(subject["diffusers_over_this"], "{:.2f}".format),
                *(f"{memory['resident'] / weights:.2f}" for memory in subject["memory_bytes"].values()),
                f"{max(memory['peak'] for memory in subject['memory_bytes'].values()) / weights:.2f}",
            ]
            for name, subject in document["subjects"].items()
        ],
    )


def _provenance(document: dict[str, Any]) -> str:
    machine, loads = document["machine"], [document[moment]["load_average"] for moment in ("started", "ended")]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"`{document['command']}`, {document['started']['time'][:10]}, commit {(machine['commit'] or 'unknown')[:10]}. "
        f"{machine['processor']} ({machine['architecture']}), {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"{machine['system']}; load average {loads[0]} at the start, {loads[1]} at the end. Python {machine['python']}, {versions}."
    )


def _rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A Markdown table and a blank line; nothing without rows."""
    if rows:
        yield "| " + " | ".join(header) + " |"
        yield "|" + "---|" * len(header)
        yield from ("| " + " | ".join(row) + " |" for row in rows)
        yield ""


def _cost(document: dict[str, Any]) -> Iterator[str]:
    rows = [
        [
            cost["mode"],
            cost["method"],
            _percent(cost["median"]),
            interval_text(cost, _percent),
            range_text(cost, _percent),
            str(cost["count"]),
        ]
        for cost in document["cost_of_guard"]
    ]
    runs = {mode["mode"]: mode["runs"] for mode in document["modes"]}
    rows += [
        [
            row["mode"],
            f"inside the run, **extrapolated** to {row['steps']} steps ({row['seconds']:.1f} s) from {row['from_steps']}",
            _percent(row["over_rest"]),
            "",
            "",
            str(runs[row["mode"]]),
        ]
        for row in document["extrapolated"]
        if row["over_rest"] > 1
    ]
    yield from _rows(["the guard adds", "method", "median", "95 % interval", "p5 to p95", "n, pairs"], rows)


def _networks(document: dict[str, Any]) -> Iterator[str]:
    rows = []
    for name in dict.fromkeys(row["network"] for mode in document["modes"] for row in mode["networks"]):
        of_mode = [next((row for row in mode["networks"] if row["network"] == name), None) for mode in document["modes"]]
        calls = " or ".join(dict.fromkeys(str(row["calls"]) for row in of_mode if row))
        rows.append(
            [
                f"{name} × {calls}",
                *(_spread(row["milliseconds"], "{:.3f}".format) if row else "" for row in of_mode),
            ]
        )
    rows.append(["images per second", *(f"{mode['images_per_second']['median']:.3g}" for mode in document["modes"])])
    modes = [f"{mode['mode']} (n = {mode['runs']})" for mode in document["modes"]]
    yield from _rows(["milliseconds of a call, median (p5 to p95) of n runs", *modes], rows)


def _floor(document: dict[str, Any]) -> Iterator[str]:
    peaks = document["floor"]["peaks"]
    yield (
        f"Peaks of the machine: GEMM {peaks['onnxruntime_gemm_flops_per_second'] / 1e9:.0f} GFLOP/s with ONNX Runtime and "
        f"{peaks['numpy_gemm_flops_per_second'] / 1e9:.0f} with numpy, float32; copy "
        f"{peaks['copy_bytes_per_second'] / 1e9:.1f} GB/s."
    )
    yield ""
    yield from _rows(
        ["one call", "GFLOP", "weights, MB", "activations, MB", "floor, ms", "bound by", "measured, ms", "of the floor's speed"],
        [
            [
                row["network"],
                f"{row['flops'] / 1e9:.3f}",
                f"{row['weight_bytes'] / 1e6:.2f}",
                f"{row['activation_bytes'] / 1e6:.2f}",
                f"{row['floor_milliseconds']:.3f}",
                row["bound_by"],
                f"{row['measured_milliseconds']:.3f}",
                f"{row['efficiency']:.0%}",
            ]
            for row in document["floor"]["networks"]
        ],
    )


def _cold_start(document: dict[str, Any]) -> Iterator[str]:
    yield from _rows(
        [
            "process of its own",
            "n",
            "to first image, s",
            *(document["cold_start"][0]["seconds"] if document["cold_start"] else ()),
            "peak memory, MiB",
            "in use on the GPU, MiB",
        ],
        [
            [
                cold["mode"],
                str(cold["processes"]),
                f"{cold['to_first_image_seconds']['median']:.2f}",
                *(f"{spread['median']:.2f}" for spread in cold["seconds"].values()),
                f"{max(cold['peak_memory_bytes'].values()) / 2**20:.0f}",
                device_mebibytes(cold),
            ]
            for cold in document["cold_start"]
        ],
    )


def _peers(document: dict[str, Any]) -> Iterator[str]:
    rows = []
    for peer in document["peers"]:
        if peer["failure"] is not None:
            rows.append([f"{peer['peer']}: {peer['description']}", peer["precision"], f"failed: {peer['failure']}", *[""] * 7])
            continue
        ratio, pictures = peer["ratio"], peer["pictures"].values()
        agreement = "**different: does not count**" if peer["agreement"] == "different" else peer["agreement"]
        rows.append(
            [
                f"{peer['peer']}: {peer['description']}",
                peer["precision"],
                f"{ratio['median']:.2f}",
                str(ratio["count"]),
                interval_text(ratio, "{:.2f}".format),
                _beside(peer, "load_seconds", "{:.1f}".format),
                _beside(peer, "first_seconds", "{:.2f}".format),
                _beside(peer, "peak_memory_bytes", _mebibytes),
                _beside(peer, "resident_memory_bytes", _mebibytes),
                f"{agreement}: {max(one['max'] for one in pictures):.0f}, {max(one['mean'] for one in pictures):.3f}",
            ]
        )
    steps = ", ".join(sorted({str(peer["num_inference_steps"]) for peer in document["peers"]}))
    yield from _rows(
        [
            "peer",
            "precision",
            f"its time ÷ ours ({GUARDED}), {steps} steps",
            "n, pairs",
            "95 % interval",
            "load, s (ours)",
            "first picture, s (ours)",
            "peak memory, MiB (ours)",
            "resident, MiB (ours)",
            "pictures: largest, mean grey-level difference",
        ],
        rows,
    )


def _beside(peer: dict[str, Any], name: str, number: Callable[[float], str]) -> str:
    """A peer's figure, and in brackets that of the process of ours that it met; documents of before have not all of them."""
    theirs, ours = ("" if side.get(name) is None else number(side[name]) for side in (peer, peer.get("ours", {})))
    return f"{theirs} ({ours})" if ours else theirs


def _mebibytes(count: float) -> str:
    return f"{count / 2**20:.0f}"


def _spread(values: dict[str, Any], number: Callable[[float], str]) -> str:
    """The median, and the range of percentiles where there are values enough."""
    between = range_text(values, number)
    return f"{number(values['median'])} ({between})" if between else number(values["median"])


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.2f} %"


if __name__ == "__main__":
    update()
