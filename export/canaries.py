"""The canaries of a build: read from a file, and run on the engines that were built."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from engines.backends.registry import backend_spec, open_backend
from engines.canary import Canary
from engines.decode import decode, without_duplicates
from engines.errors import BackendError, InputError
from engines.manifest import Manifest
from engines.networks import NETWORKS
from engines.printable import shown
from engines.prompts import PromptTokenizer
from engines.store.canaries import RUN_BY, check_canaries
from engines.store.engine_store import TOKENIZER_FILE
from export.jobs import Report


def read_canaries(path: Path, concepts: Sequence[str]) -> dict[str, tuple[Canary, ...]]:
    """The canaries in a JSON file: `{"fire": [{"prompt": "a burning star", "unsafe": true, "seed": 0}, …]}`.

    Raises:
        InputError: no such file, of another form, or for other concepts.
    """
    try:
        content = json.loads(path.read_bytes(), object_pairs_hook=without_duplicates)
        if not isinstance(content, dict) or not all(isinstance(canaries, list) for canaries in content.values()):
            raise ValueError(f"expected an object with a list for each concept, found {shown(content)}")
        if unknown := sorted(content.keys() - {*concepts}):
            raise ValueError(f"expected concepts of {', '.join(concepts)}, found {', '.join(map(shown, unknown))}")
        return {
            concept: tuple(decode(Canary, item, f"{concept}[{place}]") for place, item in enumerate(canaries))
            for concept, canaries in content.items()
        }
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected canaries in JSON, cannot be used: {error}") from None


def with_answers(manifest: Manifest, folder: Path, report: Report) -> Manifest:
    """The manifest with what its engines, which are in `folder`, answer to the canaries; as it is where they cannot run here.

    Raises:
        CanaryError: a guard judges a canary wrongly.
    """
    canaries = [canary for guard in manifest.guards for canary in guard.canaries]
    if not canaries:
        return manifest
    file = backend_spec(manifest.backend).engine_file
    try:
        backend = open_backend(manifest.backend, manifest.precision)
        engines = {name: backend.load(folder / name / file, NETWORKS[name]) for name in RUN_BY}
    except BackendError as error:
        report(f"{len(canaries)} canaries: not run, for the engines cannot run here ({error}); whatever loads them runs them")
        return manifest
    tokenizer = PromptTokenizer(folder / TOKENIZER_FILE, (folder / TOKENIZER_FILE).read_bytes())
    guards = check_canaries(manifest, backend, engines, tokenizer)
    report(f"{len(canaries)} canaries: judged rightly")
    return dataclasses.replace(manifest, guards=guards)
