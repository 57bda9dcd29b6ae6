"""The engines of the previous build: which files are as they would be built now, and which are not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from engines.errors import ManifestError
from engines.manifest import Manifest
from engines.store.digests import file_digest
from engines.store.output_folder import check_output
from export.jobs import Job


def read_previous(folder: Path) -> Manifest | None:
    """The manifest in a folder; None for no folder, an empty one, or engines whose manifest is of another format.

    Raises:
        InputError: the folder has something else than engines, or more than these.
    """
    check_output(folder, "--engine-dir")
    try:
        return Manifest.read(folder)[0]
    except ManifestError:
        return None


def changes_of(previous: Manifest | None, wanted: Manifest, folder: Path) -> list[str]:
    """What makes the folder differ from what is wanted, one phrase each; empty where nothing does."""
    if previous is None:
        return ["no engines yet"]
    changes = []
    for network in sorted({*previous.recipe, *wanted.recipe}):
        old, new = previous.recipe.get(network), wanted.recipe.get(network)
        if old is None or new is None:
            changes.append(f"{network} {'added' if old is None else 'dropped'}")
        elif old != new:
            fields = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
            changes.append(f"{network} ({', '.join(fields)})")
        elif not _intact(previous, folder, network, digests=False):
            changes.append(f"{network} (files missing or altered)")
    for key in ("model", "precision", "geometry", "sizes", "scheduler", "guards", "check"):
        if getattr(previous, key) != getattr(wanted, key):
            changes.append(key)
    return changes


def _intact(manifest: Manifest, folder: Path, network: str, digests: bool = True) -> bool:
    """Whether a network's files are as built: their sizes, and with `digests` their content."""
    files = manifest.files_of(network)
    return bool(files) and all(
        (path := folder / name).is_file()
        and path.stat().st_size == record.size
        and (not digests or file_digest(path) == record.sha256)
        for name, record in files.items()
    )


@dataclass(frozen=True)
class Previous:
    """The engines of the previous build: files that still fit are not built again."""

    folder: Path
    manifest: Manifest | None

    def fits(self, job: Job) -> Manifest | None:
        """The manifest, if the job's files are in it as they would be built now."""
        manifest = self.manifest
        if manifest is None or manifest.recipe.get(job.name) != job.recipe or not _intact(manifest, self.folder, job.name):
            return None
        return manifest

    def link(self, names: Iterable[str], folder: Path) -> None:
        """Give `folder` these files, without a copy where the file system can."""
        for name in names:
            try:
                os.link(self.folder / name, folder / name)
            except OSError:  # file systems without hard links
                shutil.copyfile(self.folder / name, folder / name)
