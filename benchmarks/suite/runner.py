"""Measures what the settings ask for, and gives the document that `benchmarks/suite/latency.schema.json` describes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from benchmarks.loading import cold_start
from benchmarks.peers.catalog import Work
from benchmarks.peers.contest import contest
from benchmarks.suite import figures, floor, grid, machine
from benchmarks.suite.flops import Count
from benchmarks.suite.sampling import GUARDED, MODES, TRIGGERED, UNGUARDED, Run, Workload, interleave, same_work
from benchmarks.suite.settings import Settings
from benchmarks.suite.target import Target
from benchmarks.suite.timing import CallLog
from engines.manifest import Manifest
from engines.policy import Policy
from runtime import GuardedPipeline

FORMAT = 1


@dataclass(frozen=True)
class Suite:
    """A target and what to measure on it.

    `peers` are names in `benchmarks.peers.catalog.PEERS`, `peer_pythons` interpreters of the environments that some need;
    `command` is what the document says made it.
    """

    target: Target
    settings: Settings
    workload: Workload
    with_grid: bool
    peers: Sequence[str]
    peer_pythons: Mapping[str, str]
    command: str

    def run(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The document and the rows of the CSV file."""
        # At the start: the commit may change while a long benchmark runs.
        started, described = machine.now(), machine.describe()
        manifest = Manifest.read(self.target.engine_dir)[0]
        counted = floor.counts(self.target.engine_dir, manifest, self.workload)  # what cannot be counted fails before hours of work
        colds = self._cold_starts()
        log = CallLog()
        with GuardedPipeline(self.target.engine_dir, wrap=log.wrap) as pipeline:
            runs = self._compare(pipeline, log)
            cells, device = self._grid(pipeline, log), pipeline.device
        modes = [figures.mode_figures(figures.of_mode(runs, mode)) for mode in MODES]
        document = {
            "format": FORMAT,
            "command": self.command,
            "started": started,
            "machine": described,
            "target": self._describe(manifest, device),
            "workload": self._describe_workload(),
            "recording_nanoseconds_per_call": log.cost(),
            "checks": [dataclasses.asdict(check) for check in same_work(runs)],
            "modes": modes,
            "cost_of_guard": figures.cost_of_guard(runs),
            "timeline": figures.timeline(runs),
            "cold_start": colds,
            "floor": self._floor(counted, modes),
            "grid": cells,
            "curves": grid.curves(cells, manifest.geometry.scale_factor),
            "extrapolated": self._extrapolated(modes),
            "peers": self._peers(manifest),
            "ended": machine.now(),
        }
        return document, figures.raw_rows(runs)

    def _compare(self, pipeline: GuardedPipeline, log: CallLog) -> list[Run]:
        with _bar("runs", len(MODES) * (self.settings.rounds + self.settings.warm_up_rounds)) as tick:
            return interleave(
                pipeline, log, self.workload, self.target.trained, self.settings.rounds, tick, self.settings.warm_up_rounds
            )

    def _grid(self, pipeline: GuardedPipeline, log: CallLog) -> list[dict[str, Any]]:
        if not self.with_grid:
            return []
        workloads, rounds = self.settings.grid.workloads(self.workload), self.settings.grid.rounds
        with _bar("grid", len(workloads) * len(MODES) * (rounds + 1)) as tick:
            return grid.measure(pipeline, log, workloads, self.target.trained, rounds, tick)

    def _cold_starts(self) -> list[dict[str, Any]]:
        calls = {mode: (self.workload.prompts(mode), self.workload.options(mode, trained=True)) for mode in (UNGUARDED, GUARDED)}
        with _bar("cold starts", len(calls) * (self.settings.cold_starts + 1) if self.settings.cold_starts else 0) as tick:
            return cold_start.compare(self.target.engine_dir, calls, self.settings.cold_starts, tick)

    def _floor(self, counted: Mapping[str, Count], modes: Sequence[dict[str, Any]]) -> dict[str, Any]:
        guarded = next(mode for mode in modes if mode["mode"] == GUARDED)
        medians = {row["network"]: row["milliseconds"]["median"] for row in guarded["networks"]}
        peaks = floor.peaks()
        return {"peaks": peaks, "networks": floor.floors(counted, medians, peaks)}

    def _extrapolated(self, modes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        if self.settings.extrapolate_to in (None, self.settings.num_inference_steps):
            return []
        return figures.extrapolated(modes, self.settings.num_inference_steps, self.settings.extrapolate_to)

    def _peers(self, manifest: Manifest) -> list[dict[str, Any]]:
        if not self.peers:
            return []
        steps = self.settings.peer_steps or self.workload.num_inference_steps
        default = manifest.guards[0].policy if manifest.guards else Policy()
        safe, triggering = (
            Work(
                tuple(self.workload.prompts(mode)),
                self.workload.seed,
                steps,
                self.workload.height,
                self.workload.width,
                self.workload.scheduler,
                self.workload.guidance_scale,
                threshold=default.threshold,
                forced_verdict=None if self.target.trained else forced,
            )
            for mode, forced in ((GUARDED, "safe"), (TRIGGERED, "unsafe"))
        )
        records = contest(self.peers, self.target, safe, triggering, self.settings.peer_rounds, self.peer_pythons)
        return list(tqdm(records, desc="peers", total=len(self.peers), leave=False, disable=None))

    def _describe(self, manifest: Manifest, device: str) -> dict[str, Any]:
        return {
            "name": self.target.name,
            "backend": manifest.backend,
            "precision": manifest.precision,
            "device": device,
            "guard": ", ".join(guard.concept for guard in manifest.guards) or None,
            "verdicts": "the guard's own" if self.target.trained else "forced: safe, unsafe",
            "embed_dim": manifest.geometry.embed_dim,
            "scale_factor": manifest.geometry.scale_factor,
        }

    def _describe_workload(self) -> dict[str, Any]:
        return {
            **vars(self.workload),
            "rounds": self.settings.rounds,
            "warm_up_rounds": self.settings.warm_up_rounds,
            "prompts": {mode: self.workload.prompts(mode) for mode in MODES},
        }


@contextmanager
def _bar(name: str, total: int) -> Iterator[Callable[[], object]]:
    """A progress bar, on a terminal; the value advances it by one."""
    with tqdm(total=total, desc=name, leave=False, disable=None) as bar:
        yield bar.update
