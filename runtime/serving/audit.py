"""The audit log: what became of every picture, appended to a file whose lines are chained by `runtime.serving.audit_chain`."""

from __future__ import annotations

import dataclasses
import datetime
import errno
import json
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engines.policy import Policy
from engines.store.locks import lock
from runtime.report import ImageReport
from runtime.serving.audit_chain import RECOVERED, Chain, read_lines, rotated_files
from runtime.serving.errors import AuditError
from runtime.serving.prompt_hash import prompt_hash

LARGEST = 64 * 2**20  # bytes of a file
logger = logging.getLogger(__name__)


class AuditLog:
    """Appends a record for every image, each on the disk before `write` returns. Threads may share it; processes may not.

    `head` is the SHA-256 of the last record's line, `number` its number, `failures` how many records could not be written. Whoever
    can write the file can remove its last records, or all: keep `head` elsewhere from time to time, and
    `saferedir audit FILE --head HEAD` will tell. It is logged whenever a file is full and the log goes on in a new one.

    Args:
        path: the file, which is made or continued. One that is full becomes PATH.1, PATH.2, …
        key: of the hashes that stand for prompts.
        required: an image whose record cannot be written is an error; else the failure is logged and counted.
        largest: bytes of a file, above which it is full.

    Raises:
        AuditError: the file cannot be continued: it is broken, another process writes it, or the system refuses.
    """

    def __init__(self, path: Path, key: bytes, *, required: bool = False, largest: int = LARGEST) -> None:
        self.required, self.failures = required, 0
        self._path, self._key, self._largest = path, key, largest
        self._lost = 0  # records since the last one that could be written
        self._lock = threading.Lock()
        self._file: int | None = None
        self._chain = Chain()
        self._guarded(self._open)

    @property
    def head(self) -> str:
        return self._chain.head

    @property
    def number(self) -> int:
        return self._chain.number

    def write(self, report: ImageReport, *, key: str = "") -> None:
        """Record an image; `key` is the name of the API key that asked for it.

        Raises:
            AuditError: it could not be written, and records are required.
        """
        content = {"key": key, **_content(report), "prompt_hmac": prompt_hash(report.prompt, self._key)}
        with self._lock:
            try:
                self._guarded(lambda: self._record("image", content))
            except AuditError as error:
                self.failures += 1
                self._lost += 1
                if self.required:
                    raise
                logger.error("%s", error)

    def check(self) -> None:
        """Try to go on after a failure, before anything else is drawn.

        Raises:
            AuditError: that failed, and records are required.
        """
        with self._lock:
            if self._file is None and self.required:
                self._guarded(self._open)

    def close(self) -> None:
        """Let another process continue the file."""
        with self._lock:
            self._close()

    def _guarded(self, step: Callable[[], None]) -> None:
        """Any failure closes the file; the next step opens it again and puts right what is half written."""
        try:
            step()
        except OSError as error:
            self._close()
            raise AuditError(f"audit: {self._path}: expected a record to be written, found {error.strerror or error}") from None
        except BaseException:
            self._close()
            raise

    def _open(self) -> None:
        """Continue the file, from what is in it and in the last one that was full."""
        self._file = _opened(self._path)
        content = self._path.read_bytes()
        self._size, chain = len(content), Chain()
        for file in [*(file for _, file in rotated_files(self._path)[-1:]), self._path]:
            for line, place in read_lines(file):
                chain.add(line, place)
        self._chain = chain
        whole = not content or content.endswith(b"\n")
        if chain.cut or self._lost or not whole:
            self._recover(start=b"" if whole else b"\n")

    def _recover(self, start: bytes) -> None:
        """Say what was cut off, and how many records are lost."""
        cut, lost = len(b"\n".join(self._chain.cut)), self._lost
        self._append(RECOVERED, {"cut_bytes": cut, "cut_sha256": self._chain.cut_digest, "lost": lost}, start)
        self._lost = 0
        logger.warning("audit: %s: went on after %d bytes that were cut off; records lost: %d", self._path, cut, lost)

    def _record(self, event: str, content: dict[str, Any]) -> None:
        if self._file is None:
            self._open()
        elif not _is_at(self._file, self._path):
            raise FileNotFoundError(errno.ENOENT, "the file moved or removed by another program")
        if self._size >= self._largest:
            self._rotate()
        self._append(event, content)

    def _rotate(self) -> None:
        """Put the full file aside and go on in a new one."""
        numbers = [number for number, _ in rotated_files(self._path)]
        full = self._path.with_name(f"{self._path.name}.{max(numbers, default=0) + 1}")
        os.rename(self._path, full)
        logger.warning("audit: %s is full; record %d, head %s: keep this head elsewhere", full, self.number, self.head)
        self._close()
        self._file, self._size = _opened(self._path), 0
        self._append("continued", {"from": full.name})

    def _append(self, event: str, content: dict[str, Any], start: bytes = b"") -> None:
        assert self._file is not None
        time = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
        record = {"previous": self.head, "number": self.number + 1, "time": time, "event": event, **content}
        line = json.dumps(record, allow_nan=False).encode("ascii")
        rest = start + line + b"\n"
        while rest:
            written = os.write(self._file, rest)
            self._size += written
            rest = rest[written:]
        os.fsync(self._file)
        self._chain.add(line, str(self._path))

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
        self._file = None


def _content(report: ImageReport) -> dict[str, Any]:
    """What is recorded of an image. Nothing of it is the prompt's text."""
    return {
        "verdict": report.verdict,
        "image_sha256": report.image_sha256,
        "manifest_digest": report.manifest_digest,
        "on_unsafe": report.on_unsafe,
        "on_still_unsafe": report.on_still_unsafe,
        "check": report.check,
        "guards": [
            {
                "concept": guard.concept,
                "checkpoint_digest": guard.checkpoint_digest,
                "policy": dataclasses.asdict(guard.policy) if isinstance(guard.policy, Policy) else guard.policy,
            }
            for guard in report.guards
        ],
    }


def _opened(path: Path) -> int:
    """The file, locked, to append to.

    Raises:
        AuditError: another process has it.
        OSError: it cannot be opened.
    """
    new = not path.exists()
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        if lock(file) is False:
            raise AuditError(f"audit: {path}: expected to be its only writer, found another server at it; give each its own file")
        if new:
            _sync_folder(path.parent)
    except BaseException:
        os.close(file)
        raise
    return file


def _is_at(file: int, path: Path) -> bool:
    """Whether an open file still has its name."""
    return path.exists() and os.path.samestat(os.fstat(file), path.stat())


def _sync_folder(folder: Path) -> None:
    """Make the name of a new file in it last."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows opens no folders
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
