"""Page and plot of what servers held under load. `python -m benchmarks.suite.serving_page` writes serving.md and serving.png.

They are made from the files serving-*.json of `benchmarks.serving` in benchmarks/results, which hold one machine each.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from benchmarks.suite.plots import SERIES, STYLE
from engines.store.atomic import replacing

RESULTS = Path(__file__).resolve().parent.parent / "results"
PAGE, PLOT = "serving.md", "serving.png"
TITLE = """# A server under load

Written by `python -m benchmarks.suite.serving_page` from `serving-*.json`, which `python -m benchmarks.serving` made
([method](../README.md)). Requests are a mix of sizes and step counts, half of them burning. "Offered" is the rate of arrivals as a
share of the guarded capacity; with the guard and without it is the same rate. Seconds count from when a request was due.
"""
COLUMNS = "| offered | guard | answers/s | p50 s | p95 s | p99 s | not answered with a picture or verdict | load average |"


def write(folder: Path) -> None:
    """Page and plot of the results in `folder`."""
    documents = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("serving-*.json"))}
    with replacing(folder / PAGE) as temporary:
        temporary.write_text("\n".join([TITLE, f"![Waiting times against the offered load]({PLOT})", "", *_page(documents)]))
    with matplotlib.rc_context(STYLE), replacing(folder / PLOT) as temporary:
        _plot(documents).savefig(temporary, format="png", dpi=150)


def servers(document: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Name and loads of each server of a document."""
    keys = dict.fromkeys((load["replicas"], load["batch_size"]) for load in document["loads"])
    for replicas, batch_size in keys:
        server = f"Ray Serve, {replicas} replica{'s' * (replicas > 1)}" if replicas else "saferedir serve"
        name = f"{server}, batches of {batch_size}"
        yield name, [load for load in document["loads"] if (load["replicas"], load["batch_size"]) == (replicas, batch_size)]


def capacity(loads: Sequence[dict[str, Any]], unguarded: bool) -> list[float]:
    """Answers a second of each run at capacity."""
    return [load["throughput"] for load in loads if load["rate"] is None and load["unguarded"] is unguarded]


def _page(documents: dict[str, dict[str, Any]]) -> Iterator[str]:
    for stem, document in documents.items():
        machine, mix = document["machine"], document["mix"]
        yield f"## {stem}\n"
        sizes, steps, requests = ", ".join(mix["sizes"]), ", ".join(map(str, mix["steps"])), document["loads"][0]["requests"]
        yield f"{machine['processor']}, {machine['cores']} cores; engines: {document['engines']}; commit {machine['commit']}."
        yield f"Sizes {sizes}; steps {steps}; {requests} requests a load.\n"
        for name, loads in servers(document):
            guarded, unguarded = (capacity(loads, flag) for flag in (False, True))
            pairs = ", ".join(f"{1 - mine / other:.1%}" for mine, other in zip(guarded, unguarded, strict=True))
            yield f"### {name}\n"
            yield (
                f"Capacity {mean(guarded):.2f} answers/s guarded, {mean(unguarded):.2f} unguarded: the guard takes "
                f"{1 - mean(guarded) / mean(unguarded):.1%} of it (the two pairs of runs: {pairs}).\n"
            )
            yield from (COLUMNS, "|---" * 8 + "|", *map(_row, loads), "")


def _row(load: dict[str, Any]) -> str:
    offered = "capacity" if load["rate"] is None else f"{load['share']:.2f} ({load['rate']:.2f}/s)"
    times = " | ".join("–" if load[name] is None else f"{load[name]:.2f}" for name in ("p50", "p95", "p99"))
    others = {name: count for name, count in load["outcomes"].items() if name not in ("drawn", "withheld")}
    refused = ", ".join(f"{count} × {name}" for name, count in others.items()) or "0"
    guard = "no" if load["unguarded"] else "yes"
    return f"| {offered} | {guard} | {load['throughput']:.2f} | {times} | {refused} | {load['load_average']:.2f} |"


def _plot(documents: dict[str, dict[str, Any]]) -> Figure:
    """p50 and p95 against the offered rate: a colour for each server, dashed without the guard."""
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    for axes, quantile in zip(figure.subplots(1, 2), ("p50", "p95"), strict=True):
        series = iter(SERIES)
        for document in documents.values():
            for name, loads in servers(document):
                colour = next(series)
                for unguarded, style in ((False, "o-"), (True, "o--")):
                    shown = [load for load in loads if load["rate"] is not None and load["unguarded"] is unguarded]
                    label = name + (", unguarded" if unguarded else "")
                    axes.plot(
                        [load["rate"] for load in shown], [load[quantile] for load in shown], style, color=colour, label=label
                    )
        axes.set(xlabel="requests a second, offered", ylabel="seconds", title=quantile, ylim=(0, None))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=7)
    return figure


if __name__ == "__main__":
    write(RESULTS)
