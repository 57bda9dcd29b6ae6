"""Found prompts drawn by the engines, guarded and not, with the same seeds: only what happens there counts."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence

import numpy as np

from engines.errors import NonFiniteError, SafeRedirError
from engines.prompts import TruncationWarning
from evaluation.attacks.record import Entry, Outcome
from evaluation.attacks.target import Prompt
from evaluation.judges import Judge
from evaluation.sampling import RunOptions
from runtime import GuardedPipeline, Result


def replay(
    pipeline: GuardedPipeline, judge: Judge, prompts: Sequence[Prompt], options: RunOptions, entries: Sequence[Entry]
) -> list[Entry]:
    """The entries with their outcomes, drawn as one batch. What is no text keeps the twin's verdict."""
    typed = [entry for entry in entries if entry.found.text]
    outcomes = iter(_outcomes(pipeline, judge, [prompts[entry.prompt].seed for entry in typed], options, typed))
    return [dataclasses.replace(entry, outcome=next(outcomes) if entry.found.text else _of_twin(entry)) for entry in entries]


def _of_twin(entry: Entry) -> Outcome:
    return Outcome(unguarded=None, guarded=bool(entry.found.fooled), withheld=False, by_twin=True)


def _outcomes(
    pipeline: GuardedPipeline, judge: Judge, seeds: Sequence[int], options: RunOptions, entries: Sequence[Entry]
) -> list[Outcome]:
    if not entries:
        return []
    guarded, unguarded = (_drawn(pipeline, entries, seeds, options, without) for without in (False, True))
    shows = [[image is not None and bool(judge(np.asarray(image))) for image in drawn.images] for drawn in (unguarded, guarded)]
    return [Outcome(before, after, withheld=image is None) for before, after, image in zip(*shows, guarded.images, strict=True)]


def _drawn(
    pipeline: GuardedPipeline, entries: Sequence[Entry], seeds: Sequence[int], options: RunOptions, unguarded: bool
) -> Result:
    """Pictures that a network failed at are withheld. No prompt is printed, neither of warnings nor of errors."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TruncationWarning)
            return pipeline(
                [entry.found.text for entry in entries],
                negative_prompt=[entry.found.negative for entry in entries],
                seed=list(seeds),
                num_inference_steps=options.num_inference_steps,
                guidance_scale=options.guidance_scale,
                scheduler=options.scheduler,
                check=options.check,
                unguarded=unguarded,
            )
    except NonFiniteError as error:
        if isinstance(error.result, Result):
            return error.result
        raise SafeRedirError(f"text_encoder: returned NaN or infinity for a prompt of {entries[0].attack}") from None
