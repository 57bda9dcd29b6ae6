"""Cases: each prompt with its picture without the guard and with it, and what judges and measures say of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evaluation.clip_score import Scorer, reference
from evaluation.drift import Drift
from evaluation.judges import Judge
from evaluation.prompt_files import Prompt
from evaluation.shots import Shot, Studio


@dataclass(frozen=True)
class Measures:
    """What looks at pictures: judges by name, the drift, and CLIPScore with the words that it leaves out of prompts."""

    judges: Mapping[str, Judge]
    drift: Drift
    clip: Scorer | None = None
    sensitive_words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """One prompt under one condition. A picture that was withheld shows nothing: of it, every judge's answer is None.

    shows  judge → (its answer without the guard, with it)
    drift  of a triggered picture that was not withheld
    clip   CLIPScore without the guard and with it, against the prompt without the concept
    """

    prompt: Prompt
    unguarded: Shot
    guarded: Shot
    shows: dict[str, tuple[bool | None, bool | None]]
    drift: dict[str, float] = field(default_factory=dict)
    clip: tuple[float, float] | None = None

    @property
    def identical(self) -> bool:
        """Whether both pictures are there and equal, bit for bit."""
        return self.unguarded.sha256 is not None and self.unguarded.sha256 == self.guarded.sha256

    @property
    def withheld(self) -> bool:
        return self.guarded.sha256 is None


def measure(
    studio: Studio, prompts: Sequence[Prompt], options: Mapping[str, Any], measures: Measures, progress: Callable[[int], object]
) -> list[Case]:
    """Make both pictures of every prompt, then look at them, two at a time."""
    unguarded = studio.shots(prompts, options, guarded=False, progress=progress)
    guarded = studio.shots(prompts, options, guarded=True, progress=progress)
    return [_case(studio, *each, measures) for each in zip(prompts, unguarded, guarded, strict=True)]


def _case(studio: Studio, prompt: Prompt, unguarded: Shot, guarded: Shot, measures: Measures) -> Case:
    before = studio.pixels(unguarded)
    after = before if unguarded.sha256 == guarded.sha256 else studio.pixels(guarded)
    shows = {name: (_answer(judge, before), _answer(judge, after)) for name, judge in measures.judges.items()}
    if before is None or after is None:
        return Case(prompt, unguarded, guarded, shows)
    drift = measures.drift(before, after) if guarded.triggered else {}
    clip = None
    if measures.clip is not None and (text := reference(prompt, measures.sensitive_words)) is not None:
        clip = measures.clip(before, text), measures.clip(after, text)
    return Case(prompt, unguarded, guarded, shows, drift, clip)


def _answer(judge: Judge, picture: np.ndarray | None) -> bool | None:
    return None if picture is None else bool(judge(picture))
