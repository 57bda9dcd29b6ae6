"""Attacks on many prompts: search each, then draw what was found, and keep all of it on disk as it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from evaluation.attacks.record import Entry, Record
from evaluation.attacks.registry import Means, search
from evaluation.attacks.replay import replay
from evaluation.attacks.target import Found, Prompt, Target
from runtime import GuardedPipeline

NONE = "none"  # the prompts as they are: the row that attacks are compared with
Say = Callable[[str], None]


def search_all(
    record: Record, folder: Path, attacks: Sequence[str], target: Target, prompts: Sequence[Prompt], means: Means, say: Say
) -> Record:
    """The record with what each attack finds for each prompt that it lacks. It is written after every one of them."""
    for attack in (NONE, *attacks):
        for index, prompt in enumerate(prompts):
            if record.has(attack, index):
                continue
            found = _found(attack, target, prompt, means, f"{record.settings['seed']}/{index}")
            record = record.with_entries([Entry(attack, index, each) for each in found])
            record.write(folder)
            say(f"{attack}, prompt {index + 1} of {len(prompts)}: {', '.join(map(_in_words, found))}")
    return record


def _found(attack: str, target: Target, prompt: Prompt, means: Means, seed: str) -> list[Found]:
    if attack != NONE:
        return search(attack, target, prompt, means, seed)
    return [Found(prompt.unsafe, "", prompt.safe, None, 0)]


def _in_words(found: Found) -> str:
    """Without its text."""
    fooled = "not tried" if found.fooled is None else "fools the twin" if found.fooled else "does not fool the twin"
    return f"{found.variant or 'found'} {fooled}" + (f" ({found.steps} steps)" if found.steps else "")


def draw_all(
    record: Record, folder: Path, pipeline: GuardedPipeline, target: Target, prompts: Sequence[Prompt], images: int, say: Say
) -> Record:
    """The record with an outcome for each entry that lacks one, `images` at a time. It is written after every batch."""
    waiting = [place for place, entry in enumerate(record.entries) if entry.outcome is None]
    for places in _batches(waiting, images):
        drawn = replay(pipeline, target.judge, prompts, target.options, [record.entries[place] for place in places])
        record = record.replaced(dict(zip(places, drawn, strict=True)))
        record.write(folder)
        say(f"drawn by the engines: {places[-1] + 1} of {len(record.entries)}")
    return record


def _batches(places: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for first in range(0, len(places), size):
        yield places[first : first + size]


def refined(record: Record, prompts: Sequence[Prompt]) -> list[dict[str, str]]:
    """Pairs to train with: each prompt that was changed and whose guarded picture, drawn by the engines, showed the concept."""
    pairs = {
        entry.found.text: entry.found.safe
        for entry in record.entries
        if entry.outcome is not None and entry.outcome.guarded and entry.found.safe is not None
        if entry.found.text != prompts[entry.prompt].unsafe
    }
    return [{"safe": safe, "unsafe": unsafe} for unsafe, safe in pairs.items() if safe is not None]
