"""Which engines a benchmark measures, and the weights they were built from, for the peers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Target:
    """Engines to measure.

    `name` goes into file names. `model` and `redirector` are the weights the engines were built from, None where they are
    not known. `trained` tells whether the guard knows the benchmark's prompts; else its verdicts are forced by thresholds.
    """

    name: str
    engine_dir: Path
    model: Path | None
    redirector: Path | None
    trained: bool
