"""From runs to figures: what each mode and network took, and what the guard costs. Milliseconds unless the name says otherwise."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.suite.ratios import Spread, paired_ratio
from benchmarks.suite.sampling import GUARDED, MODES, TRIGGERED, UNGUARDED, Run
from benchmarks.suite.timing import LOOP_NETWORKS, NAMES
from engines.networks import GUARD_NETWORKS

MS = 1e-6  # of a nanosecond
INSIDE, WHOLE = "inside each run", "whole runs"
TIMELINE_STEPS = 3


def of_mode(runs: Sequence[Run], mode: str) -> list[Run]:
    return [run for run in runs if run.mode == mode]


def mode_figures(runs: Sequence[Run]) -> dict[str, Any]:
    """One mode: a row for each network, for a step outside engines and for the pipeline."""
    images = len(runs[0].reports)
    rows = []
    for network in NAMES:
        calls = [run.calls.durations(network) for run in runs]
        if len(calls[0]):
            rows.append(_row(network, calls, runs))
    gaps = [run.calls.gaps() for run in runs]
    rows.append(_row("outside engines, per step", gaps, runs))
    rows.append(_row("pipeline", [np.array([run.duration]) for run in runs], runs))
    return {
        "mode": runs[0].mode,
        "runs": len(runs),
        "networks": rows,
        "images_per_second": dataclasses.asdict(Spread.of([1e9 * images / run.duration for run in runs])),
        "verdicts": sorted({report.verdict for run in runs for report in run.reports}),
        "checks_per_image": sorted({sum(guard.checked) for run in runs for report in run.reports for guard in report.guards}),
        "execution": dataclasses.asdict(runs[-1].execution),
    }


def _row(name: str, calls: Sequence[np.ndarray], runs: Sequence[Run]) -> dict[str, Any]:
    """`calls` in one run, milliseconds of a call over all runs, and the median share of its run that all calls make."""
    share = float(np.median([durations.sum() / run.duration for durations, run in zip(calls, runs, strict=True)]))
    return {
        "network": name,
        "calls": len(calls[0]),
        "milliseconds": dataclasses.asdict(Spread.of(np.concatenate(calls) * MS)),
        "share": share,
    }


def cost_of_guard(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Guarded over unguarded, in two ways for each kind of prompt.

    Inside each run: the run over the same run less its guard calls; no noise between runs gets in. It leaves out what the
    guard costs outside its own calls, which whole runs, paired by round, confirm or not.
    """
    unguarded = [run.duration for run in of_mode(runs, UNGUARDED)]
    costs = []
    for mode in (GUARDED, TRIGGERED):
        mine = of_mode(runs, mode)
        durations = [run.duration for run in mine]
        rest = [run.duration - sum(map(run.calls.total, GUARD_NETWORKS)) for run in mine]
        for method, denominators in ((INSIDE, rest), (WHOLE, unguarded)):
            costs.append({"mode": mode, "method": method, **dataclasses.asdict(paired_ratio(durations, denominators))})
    return costs


def timeline(runs: Sequence[Run]) -> dict[str, list[dict[str, Any]]]:
    """Calls of the first TIMELINE_STEPS steps of each mode's median run: network, start and end since the first UNet call."""
    spans = {}
    for mode in MODES:
        mine = sorted(of_mode(runs, mode), key=lambda run: run.duration)
        calls = mine[len(mine) // 2].calls
        ends = calls.end[calls.network == NAMES.index("sampler_step")]
        first, last = calls.start[calls.network == NAMES.index("unet")][0], ends[:TIMELINE_STEPS][-1]
        kept = (calls.start >= first) & (calls.end <= last)
        spans[mode] = [
            {"network": NAMES[network], "start": (start - first) * MS, "end": (end - first) * MS}
            for network, start, end in zip(calls.network[kept], calls.start[kept], calls.end[kept], strict=True)
        ]
    return spans


def raw_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Every run and network as it was measured, for the CSV file."""
    rows = []
    for run in runs:
        parts = {name: run.calls.durations(name) for name in NAMES} | {
            "outside engines, per step": run.calls.gaps(),
            "pipeline": np.array([run.duration]),
        }
        rows += [
            {
                "round": run.round,
                "position": run.position,
                "mode": run.mode,
                "network": name,
                "calls": len(nanoseconds),
                "total_ms": round(float(nanoseconds.sum()) * MS, 6),
                "median_ms": round(float(np.median(nanoseconds)) * MS, 6),
            }
            for name, nanoseconds in parts.items()
            if len(nanoseconds)
        ]
    return rows


ONCE_OF = {"guard": 1}  # calls of a run that no step makes: the final check


def extrapolated(modes: Sequence[dict[str, Any]], measured_steps: int, steps: int) -> list[dict[str, Any]]:
    """Seconds of a run of more steps than were measured: medians of the parts, those of the loop as often a step as measured.

    What happens once (tokenizer, buffers, text encoder, decoder) is the median run less its measured steps. `over_rest` is
    the run over the same run less its guard calls.
    """
    rows = []
    for figures in modes:
        median = {row["network"]: row["milliseconds"]["median"] for row in figures["networks"]}
        of_step = {
            row["network"]: (row["calls"] - ONCE_OF.get(row["network"], 0)) / measured_steps * median[row["network"]]
            for row in figures["networks"]
            if row["network"] in (*LOOP_NETWORKS, "outside engines, per step")
        }
        step = sum(of_step.values())
        once = median["pipeline"] - measured_steps * step
        explained = median.get("token_mask", 0.0)
        final_check = ONCE_OF["guard"] * median.get("guard", 0.0)
        whole, guard = once + steps * step, steps * of_step.get("guard", 0.0) + final_check + explained
        rows.append(
            {
                "mode": figures["mode"],
                "steps": steps,
                "seconds": whole / 1000,
                "over_rest": whole / (whole - guard),
                "from_steps": measured_steps,
                "extrapolated": True,
            }
        )
    return rows
