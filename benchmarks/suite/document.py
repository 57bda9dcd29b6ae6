"""A document of `benchmarks.suite.runner` as a table on the screen, and as files: JSON, CSV and plots."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.suite.figures import INSIDE
from benchmarks.suite.ratios import FEWEST, interval_text, range_text
from benchmarks.suite.sampling import GUARDED
from engines.store.atomic import replacing


def table(document: dict[str, Any]) -> str:
    """The document for people, one section after another."""
    machine, work, target = document["machine"], document["workload"], document["target"]
    loads = [document[moment]["load_average"] for moment in ("started", "ended")]
    lines = [
        document["command"],
        f"{machine['processor']}, {machine['cores']} cores; load average {loads[0]} at the start, {loads[1]} at the end",
        f"{target['name']} on {target['backend']} {target['precision']}: {work['batch_size']} x "
        f"{work['width']}x{work['height']}, {work['num_inference_steps']} steps {work['scheduler']}, {work['rounds']} rounds",
    ]
    for section in (_checks, _modes, _cost, _extrapolated, _cold_start, _floor, _grid, _peers):
        if rows := list(section(document)):
            lines += ["", *rows]
    return "\n".join(lines)


def write(document: dict[str, Any], rows: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """`latency-<target>.json` and `.csv`, each written whole; their paths."""
    stem = folder / f"latency-{document['target']['name']}"
    paths = [stem.with_suffix(".json"), stem.with_suffix(".csv")]
    with replacing(paths[0]) as temporary:
        temporary.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    with replacing(paths[1]) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return paths


def percent(ratio: dict[str, Any]) -> str:
    """A ratio as what it adds, with the number of pairs and, where these are enough, its interval and spread."""

    def added(value: float) -> str:
        return f"{100 * (value - 1):+.2f}"

    median = f"{added(ratio['median']):>7} %"
    if not (between := range_text(ratio, added)):
        return f"{median}  {interval_text(ratio, added)}"
    return (
        f"{median}  n = {ratio['count']} pairs; {100 * ratio['confidence']:.0f} % interval of the median "
        f"{interval_text(ratio, added)}; p5-p95 {between}"
    )


def device_mebibytes(cold_start: dict[str, Any]) -> str:
    """The most MiB that a cold start saw in use on the GPU, as text; "none" on a CPU."""
    used = [size for size in cold_start.get("device_memory_bytes", {}).values() if size is not None]
    return f"{max(used) / 2**20:.0f}" if used else "none"


def _checks(document: dict[str, Any]) -> Iterator[str]:
    for check in document["checks"]:
        yield f"{'ok  ' if check['passed'] else 'FAIL'} {check['name']} ({check['detail']})"


def _modes(document: dict[str, Any]) -> Iterator[str]:
    yield f"{'milliseconds of a call':<28} {'calls':>5} {'median':>10} {'p5':>10} {'p95':>10} {'share of run':>13}"
    for mode in document["modes"]:
        yield (
            f"{mode['mode']}: {mode['images_per_second']['median']:.3g} images per second, n = {mode['runs']} runs; "
            f"{', '.join(mode['verdicts'])}; {_graph(mode['execution'])}"
        )
        for row in mode["networks"]:
            times = row["milliseconds"]
            ends = [f"{times[end]:.3f}" if times["count"] >= FEWEST else "" for end in ("p5", "p95")]
            yield (
                f"  {row['network']:<26} {row['calls']:>5} {times['median']:>10.3f} {ends[0]:>10} {ends[1]:>10} "
                f"{row['share']:>12.2%}"
            )


def _graph(execution: dict[str, Any]) -> str:
    """Whether a CUDA graph engaged, or why not."""
    if not execution["graph"]:
        return f"no CUDA graph: {execution['reason']}"
    return (
        f"one CUDA graph, captured {execution['captures']} times, replayed {execution['replays']} times, "
        f"{execution['graph_memory'] / 2**20:.0f} MiB"
    )


def _cost(document: dict[str, Any]) -> Iterator[str]:
    yield "what the guard adds"
    for ratio in document["cost_of_guard"]:
        yield f"  {ratio['mode']:<20} {ratio['method']:<16} {percent(ratio)}"


def _extrapolated(document: dict[str, Any]) -> Iterator[str]:
    runs = {mode["mode"]: mode["runs"] for mode in document["modes"]}
    for row in document["extrapolated"]:
        yield (
            f"extrapolated to {row['steps']} steps from {row['from_steps']}: {row['mode']:<20} {row['seconds']:.2f} s, "
            f"guard adds {100 * (row['over_rest'] - 1):.2f} %, n = {runs[row['mode']]} runs"
        )


def _cold_start(document: dict[str, Any]) -> Iterator[str]:
    for cold in document["cold_start"]:
        phases = ", ".join(f"{phase} {spread['median']:.2f} s" for phase, spread in cold["seconds"].items())
        yield (
            f"process start to first image, {cold['mode']:<14} {cold['to_first_image_seconds']['median']:.2f} s, "
            f"n = {cold['processes']} ({phases}), peak memory {max(cold['peak_memory_bytes'].values()) / 2**20:.0f} MiB, "
            f"on the GPU {device_mebibytes(cold)}"
        )


def _floor(document: dict[str, Any]) -> Iterator[str]:
    peaks = document["floor"]["peaks"]
    yield (
        f"peaks: GEMM {peaks['onnxruntime_gemm_flops_per_second'] / 1e9:.0f} GFLOP/s with ONNX Runtime, "
        f"{peaks['numpy_gemm_flops_per_second'] / 1e9:.0f} with numpy; copy {peaks['copy_bytes_per_second'] / 1e9:.1f} GB/s"
    )
    yield f"{'network':<14} {'GFLOP':>10} {'weights MB':>11} {'floor ms':>10} {'measured ms':>12} {'of floor':>9}  bound by"
    for row in document["floor"]["networks"]:
        note = f"; not counted: {', '.join(row['uncounted'])}" if row["uncounted"] else ""
        yield (
            f"{row['network']:<14} {row['flops'] / 1e9:>10.3f} {row['weight_bytes'] / 1e6:>11.2f} "
            f"{row['floor_milliseconds']:>10.3f} {row['measured_milliseconds']:>12.3f} {row['efficiency']:>9.1%}  "
            f"{row['bound_by']}{note}"
        )


def _grid(document: dict[str, Any]) -> Iterator[str]:
    if document["grid"]:
        yield (
            f"{'batch':>5} {'size':>9} {'steps':>5} {'n':>3} {'guard, safe':>12} {'triggering':>11} {'images/s':>9} "
            f"{'unet ms':>9} {'guard ms':>9}"
        )
    for cell in document["grid"]:
        inside = [100 * (ratio["median"] - 1) for ratio in cell["cost_of_guard"] if ratio["method"] == INSIDE]
        failed = "  FAIL " + "; ".join(cell["failed_checks"]) if cell["failed_checks"] else ""
        yield (
            f"{cell['batch_size']:>5} {cell['width']:>4}x{cell['height']:<4} {cell['num_inference_steps']:>5} {cell['rounds']:>3} "
            f"{inside[0]:>+10.2f} % {inside[1]:>+9.2f} % {cell['images_per_second'][GUARDED]:>9.3g} "
            f"{cell['milliseconds']['unet']:>9.2f} {cell['milliseconds']['guard']:>9.2f}{failed}"
        )
    for curve in document["curves"]:
        terms = " + ".join(f"{value:.4g}·{name}" for name, value in curve["coefficients"].items())
        yield f"{curve['network']} ms = {terms} (worst point off by {curve['worst']:.1%})"


def _peers(document: dict[str, Any]) -> Iterator[str]:
    if document["peers"]:
        yield (
            f"{'peer':<29} {'time / ours':>11} {'n':>3} {'interval':>18} {'seconds':>9} {'load s':>7} {'MiB':>6}  "
            "pictures: largest, mean difference in grey levels"
        )
    for peer in document["peers"]:
        if peer["failure"] is not None:
            yield f"{peer['peer']:<29} failed: {peer['failure']}"
            continue
        ratio, seconds = peer["ratio"], peer["seconds"]["median"]
        between = interval_text(ratio, "{:.2f}".format)
        pictures = "; ".join(f"{kind} {levels['max']:.0f}, {levels['mean']:.3f}" for kind, levels in peer["pictures"].items())
        verdict = "does not count: DIFFERENT PICTURE" if peer["agreement"] == "different" else peer["agreement"]
        yield (
            f"{peer['peer']:<29} {ratio['median']:>10.2f}x {ratio['count']:>3} {between:>18} {seconds:>9.2f} "
            f"{peer['load_seconds']:>7.1f} {peer['peak_memory_bytes'] / 2**20:>6.0f}  {verdict} ({pictures})"
        )
