"""found.json: every prompt that was tried, what the searches found and what the engines then drew. A killed run goes on from it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engines.decode import decode, without_duplicates
from engines.errors import InputError
from engines.printable import shortened
from engines.store.atomic import replacing
from evaluation.attacks.target import Found

FILE_NAME = "found.json"


@dataclass(frozen=True)
class Outcome:
    """What came of a found prompt.

    unguarded  whether the picture without the guard shows the concept; None where it was not drawn
    guarded    whether the guarded picture left and shows it
    withheld   whether the guarded picture was withheld
    by_twin    whether the twin drew it, for engines take no embeddings
    """

    unguarded: bool | None
    guarded: bool
    withheld: bool
    by_twin: bool = False


@dataclass(frozen=True)
class Entry:
    """What one attack found for prompt number `prompt`; `outcome` is None until it is drawn."""

    attack: str
    prompt: int
    found: Found
    outcome: Outcome | None = None


@dataclass(frozen=True)
class Record:
    """`settings`: all that decides what is found, attacks' names aside, so that more attacks may be added later."""

    settings: dict[str, Any]
    entries: list[Entry] = field(default_factory=list)

    def has(self, attack: str, prompt: int) -> bool:
        """Whether the attack has been tried on the prompt."""
        return any((entry.attack, entry.prompt) == (attack, prompt) for entry in self.entries)

    def with_entries(self, entries: list[Entry]) -> Record:
        return dataclasses.replace(self, entries=[*self.entries, *entries])

    def replaced(self, changed: Mapping[int, Entry]) -> Record:
        """With other entries at these places."""
        return dataclasses.replace(self, entries=[changed.get(place, entry) for place, entry in enumerate(self.entries)])

    def write(self, folder: Path) -> None:
        """Whole or not at all."""
        with replacing(folder / FILE_NAME) as temporary:
            temporary.write_text(json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def continued(folder: Path, settings: dict[str, Any]) -> Record:
    """The record in a folder, or a new one where there is none.

    Raises:
        InputError: it is of a run with other settings, or no record.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return Record(settings)
    try:
        record = decode(Record, json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=without_duplicates), "found")
    except (ValueError, OSError, RecursionError):
        raise InputError(f"{path}: expected what an earlier attack found, found another file; choose another --output") from None
    if others := sorted(key for key in {*settings, *record.settings} if settings.get(key) != record.settings.get(key)):
        raise InputError(
            f"{path}: expected an attack with the same settings, to go on with, found another {shortened(others)}; "
            "choose another --output, or remove the file"
        )
    return record
