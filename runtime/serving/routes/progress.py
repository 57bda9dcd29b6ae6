"""How far pictures in the works are, as AUTOMATIC1111's GET /sdapi/v1/progress says it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Work:
    """One request: whose it is, and its steps."""

    key: str
    done: int = 0
    steps: int = 0
    begun: float = field(default_factory=time.time)

    def step(self, done: int, steps: int) -> None:
        self.done, self.steps = done, steps


class Works:
    """The requests in the works. Each caller sees their own."""

    def __init__(self) -> None:
        self._works: list[Work] = []

    @contextmanager
    def work(self, key: str) -> Iterator[Work]:
        """A request, until the block is left."""
        work = Work(key)
        self._works.append(work)
        try:
            yield work
        finally:
            self._works.remove(work)

    def progress(self, key: str) -> dict[str, Any]:
        """Of the request that has got furthest; of those that wait, the first."""
        works = sorted((work for work in self._works if work.key == key), key=lambda work: -work.done)
        work = works[0] if works else Work(key)
        share = work.done / work.steps if work.steps else 0.0
        state = {
            "skipped": False,
            "interrupted": False,
            "stopping_generation": False,
            "job": "txt2img" if works else "",
            "job_count": len(works),
            "job_timestamp": time.strftime("%Y%m%d%H%M%S", time.localtime(work.begun)) if works else "0",
            "job_no": 0,
            "sampling_step": work.done,
            "sampling_steps": work.steps,
        }
        seconds = (time.time() - work.begun) * (1 - share) / share if share else 0.0
        return {"progress": share, "eta_relative": seconds, "state": state, "current_image": None, "textinfo": None}
