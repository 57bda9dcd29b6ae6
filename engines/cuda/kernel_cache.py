"""TensorRT-RTX compiles kernels on the device where it runs; this keeps them from one process to the next."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from engines.store.atomic import replacing
from engines.store.user_cache import cache_folder


class KernelCache:
    """One cache for all networks, in a file of the user's cache folder: it contains code, so it never ships with engines.

    The library itself refuses a file of another GPU, driver or release; the file is then written again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._cache: Any = None
        self._saved = b""
        self._pending = False

    @classmethod
    def of(cls, version: str, gpu: str) -> KernelCache | None:
        """The cache of a library version on a GPU of this name; None where the user has no folder for it."""
        try:
            folder = cache_folder()
        except OSError:
            return None
        return cls(folder / re.sub(r"[^\w.-]+", "-", f"tensorrt-rtx-{version}-{gpu}.kernels"))

    def attach(self, config: Any) -> None:
        """Let contexts made from a TensorRT-RTX IRuntimeConfig take kernels from here and add to them."""
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            try:
                content = self.path.read_bytes()
            except OSError:
                content = b""
            if content and self._cache.deserialize(content):
                self._saved = content
        config.set_runtime_cache(self._cache)
        self._pending = True

    def save(self) -> None:
        """Write what was compiled since the last call, if anything. A cache that cannot be written only costs time."""
        if not self._pending:
            return
        self._pending = False
        content = bytes(self._cache.serialize())
        if content != self._saved:
            try:
                with replacing(self.path) as temporary:
                    temporary.write_bytes(content)
            except OSError:
                return
            self._saved = content
