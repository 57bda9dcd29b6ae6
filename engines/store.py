"""A folder of built engines: its manifest decides, and a file is hashed before anything in it is deserialised."""
from __future__ import annotations

import hashlib
from pathlib import Path

from engines.backend import Backend, Engine
from engines.errors import DigestError, ManifestError
from engines.manifest import REBUILD, Manifest
from engines.recorded import FILE_NAME, Case, load_cases
from engines.specs import NETWORKS

TOKENIZER = "tokenizer/tokenizer.json"
MODEL_FILES = ("model.onnx", "model.plan")


def file_digest(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal text."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file) -> str:  # Python 3.10 has no hashlib.file_digest
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


class EngineStore:
    """Opens `<engine-dir>`; `manifest` is its manifest and `digest` that file's SHA-256.

    Raises:
        ManifestError: no valid manifest there.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest, self.digest = Manifest.read(self.folder)

    @property
    def tokenizer(self) -> Path:
        """The tokenizer's file, verified."""
        return self._verified(TOKENIZER)

    def load(self, network: str, backend: Backend) -> Engine:
        """Verify every file of a network, then load it.

        Raises:
            ManifestError: the manifest lists no such network.
            DigestError: a file is missing or altered.
            BackendError: the backend refuses it.
        """
        files = self.manifest.files_of(network)
        models = [name for name in files if name.split("/", 1)[1] in MODEL_FILES]
        if len(models) != 1:
            raise ManifestError(f"{self.folder}: expected one engine file of {network}, found {models}; {REBUILD}")
        for name in files:
            self._verified(name)
        return backend.load(self.folder / models[0], NETWORKS[network])

    def cases(self, network: str) -> list[Case]:
        """What was recorded of a network at build, verified.

        Raises:
            ManifestError, DigestError: as for `load`.
        """
        return load_cases(self._verified(f"{network}/{FILE_NAME}"))

    def require_guard(self) -> None:
        """Raise ManifestError unless these engines were built with a guard."""
        if self.manifest.guard is None:
            raise ManifestError(f"{self.folder}: expected engines with a guard, found none in the manifest; build them "
                                "with: python export/build_engines.py --redirector CHECKPOINT (or ask for unguarded "
                                "generation explicitly)")

    def _verified(self, name: str) -> Path:
        path, record = self.folder / name, self.manifest.files.get(name)
        if record is None or not path.resolve().is_relative_to(self.folder.resolve()):
            raise ManifestError(f"{path}: expected in the manifest's list of files, found none; {REBUILD}")
        if not path.is_file():
            raise DigestError(f"{path}: missing, though the manifest lists it; {REBUILD}")
        if (size := path.stat().st_size) != record.size:
            raise DigestError(f"{path}: altered: expected {record.size} bytes, found {size}; {REBUILD}")
        if (digest := file_digest(path)) != record.sha256:
            raise DigestError(f"{path}: altered: expected SHA-256 {record.sha256}, found {digest}; {REBUILD}")
        return path
