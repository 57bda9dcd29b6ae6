"""Pages of mapped files that a process has read and will not read again."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

MAPS = Path("/proc/self/maps")
DONTNEED = 4  # MADV_DONTNEED


def release_pages(path: Path) -> None:
    """Have the kernel take back the pages of read-only mappings of files whose path starts with `path`.

    They leave this process's resident memory. What is read again all the same comes from the file, or the kernel's copy of it.
    Systems without /proc (source: proc_pid_maps(5), madvise(2)) keep theirs.
    """
    if not MAPS.exists():
        return
    advise = ctypes.CDLL(None, use_errno=True).madvise
    advise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    for start, end in _read_only(os.path.realpath(path)):
        advise(start, end - start, DONTNEED)


def _read_only(prefix: str) -> Iterator[tuple[int, int]]:
    """First and last address of mappings that nobody writes to, so that dropping their pages loses nothing."""
    for line in MAPS.read_text(errors="replace").splitlines():
        addresses, permissions, *_, name = line.split(maxsplit=5)
        if permissions.startswith("r--") and name.startswith(prefix):
            start, end = (int(address, 16) for address in addresses.split("-"))
            yield start, end
