"""SHA-256 of files. Those of large files are remembered from one process to the next."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from engines.store.atomic import replacing
from engines.store.user_cache import cache_folder

LARGE = 64 << 20  # bytes; a smaller file is hashed within 50 ms
SETTLED_NS = 2_000_000_000  # longer than the step of any file system's clock


def file_digest(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal text. Other threads run meanwhile."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file: BinaryIO) -> str:  # Python 3.10 has no hashlib.file_digest
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


@dataclass(frozen=True)
class FileIdentity:
    """Tells a file from every other and from itself after a change: a program can set mtime back, but not ctime."""

    device: int
    inode: int
    size: int  # bytes
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, path: Path) -> FileIdentity:
        """Raises OSError where there is no such file."""
        status = path.stat()
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def remembered_digest(path: Path) -> str:
    """As `file_digest`; a large file that has not changed since it was last hashed is not read.

    Digests are kept in the user's cache folder. Where there is none, the file is hashed.
    """
    before = FileIdentity.of(path)
    if before.size < LARGE:
        return file_digest(path)
    try:
        record = cache_folder() / "digests" / f"{before.device:x}-{before.inode:x}.json"
    except OSError:
        return file_digest(path)
    if (known := _recall(record, before)) is not None:
        return known
    digest = file_digest(path)
    # A change within one step of the clock would leave the times as they are.
    if FileIdentity.of(path) == before and time.time_ns() - max(before.mtime_ns, before.ctime_ns) > SETTLED_NS:
        _remember(record, before, digest)
    return digest


def _recall(record: Path, identity: FileIdentity) -> str | None:
    try:
        known = json.loads(record.read_text(encoding="utf-8"))
        return known["sha256"] if known["file"] == asdict(identity) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(record: Path, identity: FileIdentity, digest: str) -> None:
    try:
        record.parent.mkdir(mode=0o700, exist_ok=True)
        with replacing(record) as temporary:
            temporary.write_text(json.dumps({"file": asdict(identity), "sha256": digest}) + "\n", encoding="utf-8")
    except OSError:  # the next process hashes it again
        return
