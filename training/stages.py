"""Heads that a stage of a training has finished, kept so that a run that was killed does not train them again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.decode import decode, without_duplicates
from engines.store.atomic import replacing
from engines.store.digests import file_digest
from saferedir.checkpoint import load_redirector, save_redirector
from saferedir.heads import Redirector
from training.heads_training import Evaluation
from training.shards import digest_of


@dataclass(frozen=True)
class Finished:
    """What decided the heads, their file's SHA-256, and the evaluations of their training."""

    digest: str
    sha256: str
    evaluations: list[Evaluation]


def finished_or_trained(
    folder: Path, name: str, decided_by: Mapping[str, Any], train: Callable[[], tuple[Redirector, list[Evaluation]]]
) -> tuple[Redirector, Finished]:
    """The heads of a stage: those in the folder if the same decided them, else those that `train` gives, which are then kept."""
    folder.mkdir(parents=True, exist_ok=True)
    weights, note, digest = folder / f"{name}.safetensors", folder / f"{name}.json", digest_of(decided_by)
    finished = _read(note)
    if finished is not None and finished.digest == digest and weights.is_file() and file_digest(weights) == finished.sha256:
        return load_redirector(weights), finished
    heads, evaluations = train()
    save_redirector(heads, weights)
    finished = Finished(digest, file_digest(weights), evaluations)
    with replacing(note) as temporary:
        temporary.write_text(json.dumps(dataclasses.asdict(finished), indent=1) + "\n", encoding="utf-8")
    return heads, finished


def _read(note: Path) -> Finished | None:
    """A note that cannot be read is as none: the stage is trained again."""
    try:
        return decode(Finished, json.loads(note.read_bytes(), object_pairs_hook=without_duplicates), note.name)
    except (OSError, ValueError, RecursionError):
        return None
