"""One writer at a time: locks of files and folders that the system releases when their process ends, however it ends."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: nothing is locked there, and nothing is taken for left over
    fcntl = None  # type: ignore[assignment]


def lock(descriptor: int) -> bool | None:
    """Try to lock an open file or folder: True where it is ours now, False where it is another's, None where nothing can be."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # file systems without locks
        return None
    return True


@contextmanager
def sole_holder(path: Path, wait: Callable[[], None]) -> Iterator[bool]:
    """Hold the lock file `path`, which is there only meanwhile. False where the file system has no locks.

    `wait` is called once before another holder is waited for.
    """
    descriptor, held = _held(path, wait)
    try:
        yield held
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether a process holds this lock file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return False
    try:
        return lock(descriptor) is False
    finally:
        os.close(descriptor)


def _held(path: Path, wait: Callable[[], None]) -> tuple[int, bool]:
    waited = False
    while True:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        try:
            if (held := lock(descriptor)) is False:
                if not waited:
                    wait()
                waited = True
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):  # its last holder has removed it: lock the next one
                if os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False)):
                    return descriptor, held is not None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
