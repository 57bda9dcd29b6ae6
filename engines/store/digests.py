"""SHA-256 of files. Those of large files are remembered from one process to the next."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import stat
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
        return hash_file(file)


def hash_file(file: BinaryIO) -> str:
    """SHA-256 of an open file from its beginning."""
    file.seek(0)
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def hash_content(content: bytes | mmap.mmap) -> str:
    """SHA-256 of what was read or mapped."""
    return hashlib.sha256(content).hexdigest()


def open_regular(path: Path) -> BinaryIO:
    """A file to read; FileNotFoundError for what is none, as a pipe, which would be waited for."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(f"{path}: not a file")
    return os.fdopen(descriptor, "rb")


@dataclass(frozen=True)
class FileIdentity:
    """Tells a file from every other, and from itself after a change by `write`: programs can set mtime back, but not ctime.

    A change through a shared memory mapping moves the times when a page that was written to disk is changed first, and not
    again until it has been written once more; in a file system in memory (tmpfs) never.
    """

    device: int
    inode: int
    size: int  # bytes
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, file: Path | int) -> FileIdentity:
        """By path or descriptor. Raises OSError where there is no such file."""
        status = os.stat(file)
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def remembered_digest(path: Path, expected: str | None = None) -> str:
    """As `file_digest`; a large file that has not changed since it was last hashed is not read. See `digest_of`."""
    with open(path, "rb") as file:
        return digest_of(file, expected)


def digest_of(file: BinaryIO, expected: str | None = None) -> str:
    """SHA-256 of an open file; one that is large and has the identity that it had when it was last hashed is not read.

    What is remembered counts only if it is what is `expected`, where that is given. Before a digest is remembered, the file's
    pages are written to disk, so that the next change of any kind, a mapping's too, moves its times. tmpfs and some network
    file systems do not promise that; there a writer who keeps a shared mapping can change a file unseen.

    Digests are kept in the user's cache folder. Where there is none, or it cannot be written, the file is hashed.
    """
    if (known := recall(file, expected)) is not None:
        return known
    before = settled_identity(file)
    digest = hash_file(file)
    remember(file, before, digest)
    return digest


def recall(file: BinaryIO, expected: str | None) -> str | None:
    """The digest that is remembered for an open file as it is; None where there is none, or not what is `expected`, if given."""
    known = _recall(FileIdentity.of(file.fileno()))
    return known if expected in (None, known) else None


def settled_identity(file: BinaryIO) -> FileIdentity | None:
    """The identity of a large file, to `remember` its digest by; None for others."""
    if os.fstat(file.fileno()).st_size < LARGE:
        return None
    try:
        os.fsync(file.fileno())
    except OSError:
        return None
    return FileIdentity.of(file.fileno())


def remember(file: BinaryIO, before: FileIdentity | None, digest: str) -> None:
    """Remember the digest of a file that was `before` when its reading began, if it still is."""
    # A change within one step of the clock would leave the times as they are.
    if before is None or time.time_ns() - max(before.mtime_ns, before.ctime_ns) <= SETTLED_NS:
        return
    if FileIdentity.of(file.fileno()) != before:
        return
    try:
        record = _record(before)
        record.parent.mkdir(mode=0o700, exist_ok=True)
        with replacing(record) as temporary:
            temporary.write_text(json.dumps({"file": asdict(before), "sha256": digest}) + "\n", encoding="utf-8")
    except OSError:  # the next process hashes it again
        return


def _record(identity: FileIdentity) -> Path:
    return cache_folder() / "digests" / f"{identity.device:x}-{identity.inode:x}.json"


def _recall(identity: FileIdentity) -> str | None:
    if identity.size < LARGE:
        return None
    try:
        known = json.loads(_record(identity).read_bytes())
        digest = known["sha256"] if known["file"] == asdict(identity) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return digest if isinstance(digest, str) else None
