"""The same comparison over batch sizes, picture sizes and step counts."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.suite.curves import MODELS, fit
from benchmarks.suite.figures import cost_of_guard, mode_figures, of_mode
from benchmarks.suite.sampling import GUARDED, MODES, Workload, interleave, same_work
from benchmarks.suite.timing import CallLog
from runtime import GuardedPipeline


@dataclass(frozen=True)
class Grid:
    """Square pictures of `sizes` pixels; every combination is measured in `rounds` rounds."""

    batch_sizes: Sequence[int]
    sizes: Sequence[int]
    steps: Sequence[int]
    rounds: int

    def workloads(self, like: Workload) -> list[Workload]:
        """A workload for each cell, small ones first."""
        return [
            dataclasses.replace(like, batch_size=batch, num_inference_steps=steps, height=size, width=size)
            for batch, size, steps in itertools.product(self.batch_sizes, self.sizes, self.steps)
        ]


def measure(
    pipeline: GuardedPipeline,
    log: CallLog,
    workloads: Sequence[Workload],
    trained: bool,
    rounds: int,
    tick: Callable[[], object] = lambda: None,
) -> list[dict[str, Any]]:
    """One cell for each workload: ratios, medians of networks and images per second of each mode, and failed checks."""
    cells = []
    for workload in workloads:
        runs = interleave(pipeline, log, workload, trained, rounds, tick)
        modes = {mode: mode_figures(of_mode(runs, mode)) for mode in MODES}
        cells.append(
            {
                **{name: getattr(workload, name) for name in ("batch_size", "num_inference_steps", "height", "width")},
                "rounds": rounds,
                "cost_of_guard": cost_of_guard(runs),
                "milliseconds": {row["network"]: row["milliseconds"]["median"] for row in modes[GUARDED]["networks"]},
                "images_per_second": {mode: figures["images_per_second"]["median"] for mode, figures in modes.items()},
                "failed_checks": [check.name for check in same_work(runs) if not check.passed],
                "extrapolated": False,
            }
        )
    return cells


def curves(cells: Sequence[dict[str, Any]], scale_factor: int) -> list[dict[str, Any]]:
    """Fitted costs of the loop's networks; none for a grid of too few shapes. `scale_factor` is the autoencoder's."""
    pixels = [cell["height"] * cell["width"] / scale_factor**2 for cell in cells]
    images = [cell["batch_size"] for cell in cells]
    shapes = len(set(zip(pixels, images, strict=True)))
    return [
        dataclasses.asdict(fit(network, pixels, images, [cell["milliseconds"][network] for cell in cells]))
        for network, terms in MODELS.items()
        if shapes >= len(terms)
    ]
