"""Plots of a document, made from its JSON alone. `python -m benchmarks.suite.plots FILE.json` draws them again beside it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from benchmarks.suite.curves import Curve
from benchmarks.suite.figures import INSIDE, TIMELINE_STEPS
from benchmarks.suite.ratios import FEWEST, interval
from benchmarks.suite.sampling import GUARDED, MODES
from benchmarks.suite.timing import LOOP_NETWORKS
from engines.store.atomic import replacing

COLOURS = {
    "text_encoder": "#8c6bb1",
    "unet": "#4477aa",
    "guard": "#cc3311",
    "token_mask": "#882255",
    "sampler_step": "#ddaa33",
    "vae_decoder": "#44aa77",
    "outside engines": "#999999",
}
SERIES = ("#4477aa", "#ee7733", "#228833", "#aa3377", "#66ccee")
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "legend.frameon": False,
}


def draw(document: dict[str, Any], folder: Path) -> list[Path]:
    """Write every plot that the document has figures for, as `latency-<target>-<plot>.png`; their paths."""
    import matplotlib

    paths = []
    with matplotlib.rc_context(STYLE):
        for name, plot in PLOTS.items():
            if (figure := plot(document)) is None:
                continue
            _caption(figure, document)
            paths.append(folder / f"latency-{document['target']['name']}-{name}.png")
            with replacing(paths[-1]) as temporary:
                figure.savefig(temporary, format="png", dpi=150)
    return paths


def _caption(figure: Figure, document: dict[str, Any]) -> None:
    machine, target, started = document["machine"], document["target"], document["started"]
    text = (
        f"{target['name']}, {target['backend']} {target['precision']}; {machine['processor']}, {machine['cores']} cores, "
        f"load {started['load_average']}; {started['time'][:10]}"
    )
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(rect=(0, 0.05, 1, 0.94))  # type: ignore[call-arg]
    figure.text(0.995, 0.01, text, ha="right", va="bottom", fontsize=7, color="#666666")


def overhead(document: dict[str, Any]) -> Figure | None:
    """What the guard adds by step count and by picture size, with intervals; extrapolated points are hollow.

    None for a single point.
    """
    cells = document["grid"] or [_as_cell(document)]
    if len(cells) + len(document["extrapolated"]) < 2:
        return None
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    smallest, longest = min(cell["batch_size"] for cell in cells), max(cell["num_inference_steps"] for cell in cells)
    for colour, size in zip(SERIES, sorted({cell["width"] for cell in cells}), strict=False):
        mine = [cell for cell in cells if cell["width"] == size and cell["batch_size"] == smallest]
        _overhead_line(left, [cell["num_inference_steps"] for cell in mine], mine, colour, f"{size} px")
    for colour, batch in zip(SERIES, sorted({cell["batch_size"] for cell in cells}), strict=False):
        mine = [cell for cell in cells if cell["batch_size"] == batch and cell["num_inference_steps"] == longest]
        _overhead_line(right, [cell["width"] for cell in mine], mine, colour, f"batch {batch}")
    for row in document["extrapolated"]:
        if row["mode"] == GUARDED:
            left.plot(
                row["steps"],
                100 * (row["over_rest"] - 1),
                "o",
                mfc="white",
                mec="black",
                label=f"{document['workload']['width']} px, extrapolated\nfrom {row['from_steps']} steps",
            )
    left.set(title=f"by step count, batch {smallest}", xlabel="sampler steps", ylabel="guard adds, % of the rest of the run")
    right.set(
        title=f"by picture size, {longest} steps", xlabel="picture side, pixels", xticks=sorted({cell["width"] for cell in cells})
    )
    left.set_xticks(sorted({*(cell["num_inference_steps"] for cell in cells), *(row["steps"] for row in document["extrapolated"])}))
    left.set_ylim(0, 1.1 * max(axes.dataLim.ymax for axes in (left, right)))
    for axes in (left, right):
        axes.legend()
        axes.grid(axis="y", alpha=0.3)
    counts = sorted({ratio["count"] for cell in cells for ratio in cell["cost_of_guard"]})
    bars = "bars: 95 % interval of the median" if max(counts) >= FEWEST else "no intervals"
    pairs = " or ".join(map(str, counts))
    figure.suptitle(f"Cost of the guard on safe prompts, every step checked (inside each run; n = {pairs} a point; {bars})")
    return figure


def _as_cell(document: dict[str, Any]) -> dict[str, Any]:
    """The main comparison in the form of a grid's cell."""
    work = document["workload"]
    return {
        **{name: work[name] for name in ("batch_size", "num_inference_steps", "height", "width")},
        "cost_of_guard": document["cost_of_guard"],
    }


def _overhead_line(axes: Any, places: list[float], cells: list[dict[str, Any]], colour: str, label: str) -> None:
    ratios = [
        next(ratio for ratio in cell["cost_of_guard"] if ratio["mode"] == GUARDED and ratio["method"] == INSIDE) for cell in cells
    ]
    middle = np.array([100 * (ratio["median"] - 1) for ratio in ratios])
    low, high = 100 * (np.array([interval(ratio) or (np.nan, np.nan) for ratio in ratios], np.float64).T - 1)  # NaN: no bar
    axes.errorbar(
        places, middle, yerr=[middle - low, high - middle], color=colour, label=label, marker="o", ms=4, capsize=3, lw=1.2
    )


def networks(document: dict[str, Any]) -> Figure:
    """Median seconds of an image batch by network, stacked, one bar for each mode; hatched where extrapolated."""
    bars = [(mode["mode"], _parts(mode), "") for mode in document["modes"]]
    steps = document["workload"]["num_inference_steps"]
    bars += [
        (f"{row['mode']}\n{row['steps']} steps, extrapolated", _parts(mode, row["steps"] / steps), "//")
        for row, mode in zip(document["extrapolated"], document["modes"], strict=False)
    ]
    figure = Figure(figsize=(9, 0.55 * len(bars) + 1.9), layout="constrained")
    axes = figure.subplots()
    for place, (_, parts, hatch) in enumerate(bars):
        left = 0.0
        for name, seconds in parts.items():
            axes.barh(
                place,
                seconds,
                left=left,
                color=COLOURS[name],
                hatch=hatch,
                edgecolor="white",
                linewidth=0.6,
                height=0.6,
                label=name if place == 1 else None,
            )  # the guarded bar has every part
            left += seconds
        axes.text(left, place, f"  {left:.3g} s", va="center")
    axes.set_yticks(range(len(bars)), [name for name, _, _ in bars])
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set(
        xlabel="seconds, median call times number of calls",
        title=f"Where the time goes: {document['workload']['batch_size']} x {document['workload']['width']}x"
        f"{document['workload']['height']}, {steps} steps, n = {document['modes'][0]['runs']} runs of each",
    )
    figure.legend(loc="outside upper center", ncols=6)
    return figure


def _parts(mode: dict[str, Any], times: float = 1.0) -> dict[str, float]:
    """Seconds of each part of a run; those of the loop `times` as often as measured."""
    rows = {row["network"]: row for row in mode["networks"]}
    parts = {
        name: rows[name]["calls"] * rows[name]["milliseconds"]["median"] / 1000 * (times if name in LOOP_NETWORKS else 1)
        for name in COLOURS
        if name in rows
    }
    gap = rows["outside engines, per step"]
    parts["outside engines"] = gap["calls"] * gap["milliseconds"]["median"] / 1000 * times
    return parts


def timeline(document: dict[str, Any]) -> Figure:
    """The first steps of each mode's median run, call by call, a row for each network."""
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    for axes, mode in zip(figure.subplots(len(MODES), 1, sharex=True), MODES, strict=True):
        for place, network in enumerate(LOOP_NETWORKS):
            calls = [call for call in document["timeline"][mode] if call["network"] == network]
            spans = [(call["start"], call["end"] - call["start"]) for call in calls]
            # The edge keeps a call visible that is shorter than a pixel.
            axes.broken_barh(spans, (place - 0.4, 0.8), color=COLOURS[network], linewidth=0.8)
        axes.set(yticks=range(len(LOOP_NETWORKS)), yticklabels=LOOP_NETWORKS, ylim=(len(LOOP_NETWORKS) - 0.5, -0.5))
        axes.set_title(mode, loc="left")
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
    axes.set_xlabel("milliseconds since the first UNet call")
    figure.suptitle(f"The first {TIMELINE_STEPS} steps of each mode's median run, of n = {document['modes'][0]['runs']}")
    return figure


def curves(document: dict[str, Any]) -> Figure | None:
    """Measured medians of UNet and guard calls against latent pixels, with the fitted curves, a line for each batch size."""
    fitted = {curve["network"]: Curve(**curve) for curve in document["curves"]}
    if not {"unet", "guard"} <= set(fitted):
        return None
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    factor, cells = document["target"]["scale_factor"] ** 2, document["grid"]
    for axes, network in zip(figure.subplots(1, 2), ("unet", "guard"), strict=True):
        for colour, batch in zip(SERIES, sorted({cell["batch_size"] for cell in cells}), strict=False):
            mine = [cell for cell in cells if cell["batch_size"] == batch]
            pixels = np.array([cell["width"] * cell["height"] / factor for cell in mine])
            axes.plot(pixels, [cell["milliseconds"][network] for cell in mine], "o", ms=4, color=colour, label=f"batch {batch}")
            smooth = np.geomspace(pixels.min(), pixels.max(), 100)
            axes.plot(smooth, fitted[network](smooth, batch), color=colour, lw=1)
        axes.set(xscale="log", yscale="log", xlabel="latent pixels of an image", ylabel="milliseconds of a call", title=network)
        axes.set_xticks(sorted({cell["width"] * cell["height"] / factor for cell in cells}))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend()
    rounds = " or ".join(map(str, sorted({cell["rounds"] for cell in cells})))
    figure.suptitle(f"Cost of a call: measured medians (n = {rounds} runs a point) and fitted curves")
    return figure


PLOTS: dict[str, Callable[[dict[str, Any]], Figure | None]] = {
    "overhead": overhead,
    "networks": networks,
    "timeline": timeline,
    "curves": curves,
}


def main() -> None:
    """Draw a document's plots again."""
    path = Path(sys.argv[1])
    for written in draw(json.loads(path.read_text(encoding="utf-8")), path.parent):
        print(f"wrote {written.name}")


if __name__ == "__main__":
    main()
