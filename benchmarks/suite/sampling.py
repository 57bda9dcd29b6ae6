"""Interleaved runs: the same images unguarded, guarded on safe prompts and guarded on triggering ones, in turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

from benchmarks.suite.timing import CallLog, Calls
from engines.backends.program import Execution
from runtime import GuardedPipeline
from runtime.report import ImageReport

SAFE = (
    "a blue square on a grey background",
    "a small red star on a white background",
    "a large green circle on the left of a black background",
    "a teal diamond at the top of a grey background",
    "a pink cross on a mint background",
    "a white triangle on a black background",
    "a large purple star at the bottom of a grey background",
    "a black circle",
)
TRIGGERING = tuple(text.replace("a ", "a burning ", 1) for text in SAFE)
UNGUARDED, GUARDED, TRIGGERED = MODES = ("unguarded", "guarded, safe", "guarded, triggering")


@dataclass(frozen=True)
class Workload:
    """What every run of a comparison generates. Sizes in pixels; `scheduler` as in `runtime.Request`."""

    batch_size: int
    num_inference_steps: int
    height: int
    width: int
    scheduler: str
    guidance_scale: float = 7.5
    seed: int = 0
    check: str = "beside"

    def prompts(self, mode: str) -> list[str]:
        """One for each image; unguarded runs draw the safe ones."""
        texts = TRIGGERING if mode == TRIGGERED else SAFE
        return [texts[index % len(texts)] for index in range(self.batch_size)]

    def options(self, mode: str, trained: bool) -> dict[str, Any]:
        """Options of the pipeline's call. An untrained guard is made to find everything safe, or everything unsafe."""
        options: dict[str, Any] = {name: value for name, value in vars(self).items() if name != "batch_size"}
        if mode == UNGUARDED:
            return {**options, "unguarded": True}
        if not trained:
            options["forced_verdict"] = "unsafe" if mode == TRIGGERED else "safe"
        return options


@dataclass(frozen=True, eq=False)
class Run:
    """One call of the pipeline. `start` and `end` in nanoseconds of the calls' clock; `position` in its round."""

    mode: str
    round: int
    position: int
    start: int
    end: int
    calls: Calls
    reports: Sequence[ImageReport]
    execution: Execution

    @property
    def duration(self) -> int:
        """Nanoseconds of the whole call: tokenizer, engines, loop and report."""
        return self.end - self.start


def order(modes: Sequence[str], round_number: int) -> list[str]:
    """Rotated by one place each round and reversed in every other: each mode comes at each place, after each other one."""
    shift = round_number % len(modes)
    rotated = [*modes[shift:], *modes[:shift]]
    return rotated[::-1] if round_number % 2 else rotated


def interleave(
    pipeline: GuardedPipeline,
    log: CallLog,
    workload: Workload,
    trained: bool,
    rounds: int,
    tick: Callable[[], object] = lambda: None,
    warm_up_rounds: int = 1,
) -> list[Run]:
    """Every mode once a round, after rounds that are not kept; `tick` is called after every run."""
    numbers = range(-warm_up_rounds, rounds)
    return [run for run in _runs(pipeline, log, workload, trained, numbers, tick) if run.round >= 0]


def _runs(
    pipeline: GuardedPipeline, log: CallLog, workload: Workload, trained: bool, numbers: range, tick: Callable[[], object]
) -> Iterator[Run]:
    for number in numbers:
        for position, mode in enumerate(order(MODES, number)):
            prompts, options = workload.prompts(mode), workload.options(mode, trained)
            log.clear()
            start = perf_counter_ns()
            result = pipeline(prompts, **options)
            end = perf_counter_ns()
            yield Run(mode, number, position, start, end, log.calls(), result.reports, result.execution)
            tick()


@dataclass(frozen=True)
class Check:
    """Whether compared runs did the same work."""

    name: str
    passed: bool
    detail: str


def pictures_of(runs: Sequence[Run], mode: str) -> set[tuple[str | None, ...]]:
    """The different results of a mode's runs, as digests of their images; one where each run gave the same."""
    return {tuple(report.image_sha256 for report in run.reports) for run in runs if run.mode == mode}


def same_work(runs: Sequence[Run]) -> list[Check]:
    """What must hold for the ratios of these runs to mean anything."""
    of = {mode: [run for run in runs if run.mode == mode] for mode in MODES}
    pictures = {mode: pictures_of(runs, mode) for mode in MODES}
    safe = [report for run in of[GUARDED] for report in run.reports]
    unsafe = [report for run in of[TRIGGERED] for report in run.reports]
    rows = len(safe[0].timesteps)
    unets = {len(run.calls.durations("unet")) for run in runs}
    checked = {sum(guard.checked) for report in safe for guard in report.guards}
    triggered = sum(map(_found_unsafe, unsafe))
    differing = [mode for mode in MODES if len(pictures[mode]) != 1]
    return [
        Check(
            "guarded pictures of safe prompts equal the unguarded ones bit for bit",
            pictures[GUARDED] == pictures[UNGUARDED],
            f"{len(safe)} images",
        ),
        Check("every run of a mode gives the same pictures", not differing, ", ".join(differing) or f"{len(runs)} runs"),
        Check("safe prompts are checked at every step", checked == {rows}, f"{sorted(checked)} checks of {rows} steps"),
        Check("no safe prompt triggers the guard", not any(map(_found_unsafe, safe)), f"{len(safe)} images"),
        Check("every triggering prompt triggers the guard", triggered == len(unsafe), f"{triggered} of {len(unsafe)} images"),
        Check("every mode calls the UNet at every step", unets == {rows}, f"{sorted(unets)} calls for {rows} steps"),
    ]


def _found_unsafe(report: ImageReport) -> bool:
    return any(guard.unsafe_steps for guard in report.guards)
