"""A program: calls of engines in a fixed order, run as often as wanted. On a CPU in turn, on a GPU as one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

Progress = Callable[[int, int], None]  # (steps done, all steps)
Stage = Sequence[Callable[[], None]]  # calls that do not depend on each other
Step = Sequence[Stage]


@dataclass(frozen=True)
class Execution:
    """How a program has run.

    graph          whether one CUDA graph replays all steps
    reason         why there is no graph, else ""
    captures       graphs captured since the program was made
    replays        runs that replayed it
    graph_memory   bytes of device memory that the graph took
    """

    graph: bool = False
    reason: str = "this backend runs each call by itself"
    captures: int = 0
    replays: int = 0
    graph_memory: int = 0


class Program(Protocol):
    """Made by a backend from steps, each a sequence of stages; a stage starts when the one before it has ended."""

    @property
    def execution(self) -> Execution: ...

    def run(self, progress: Progress | None = None) -> None:
        """Run every step. `progress` is called after each, or once at the end where the host does not wait between steps."""
        ...


class InTurn:
    """Runs each call by itself, in order."""

    def __init__(self, steps: Sequence[Step], execution: Execution = Execution()) -> None:  # noqa: B008, it is frozen
        self.execution = execution
        self._steps = [[call for stage in step for call in stage] for step in steps]

    def run(self, progress: Progress | None = None) -> None:
        """See `Program.run`."""
        for done, calls in enumerate(self._steps, start=1):
            for call in calls:
                call()
            if progress is not None:
                progress(done, len(self._steps))
