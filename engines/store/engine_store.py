"""A folder of built engines: its manifest lists every file, and what was hashed is what is deserialised."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import BinaryIO

from engines.backends.contract import Backend, Contents, Engine
from engines.backends.registry import backend_spec
from engines.errors import BackendError, DigestError, ManifestError
from engines.manifest import REBUILD, Manifest
from engines.networks import NETWORKS
from engines.store.atomic import recover_folder
from engines.store.digests import FileIdentity, digest_of, hash_content, open_regular, recall, remember, settled_identity
from engines.store.external_weights import external_files
from engines.store.recorded_cases import FILE_NAME, Case, load_cases
from engines.store.signature import trusted_keys_of, verify_signature

TOKENIZER_FILE = "tokenizer/tokenizer.json"


@dataclass(frozen=True)
class OpenEngine:
    """An engine's file and those with its weights, verified: what a backend is to load, and what the files were meanwhile."""

    path: Path
    contents: Contents
    identities: Mapping[Path, FileIdentity]

    def check_unchanged(self) -> None:
        """Raise DigestError if files of which not all have been read are others than were verified.

        `FileIdentity` says which changes are not seen.
        """
        if all(isinstance(content, bytes) for content in self.contents.values()):
            return
        for path, identity in self.identities.items():
            if _identity(path) != identity:
                raise DigestError(f"{path}: changed while it was loaded; load it again")


def _identity(path: Path) -> FileIdentity | None:
    try:
        return FileIdentity.of(path)
    except OSError:
        return None


class EngineStore:
    """Opens `<engine-dir>`; `manifest` is its manifest, `digest` that file's SHA-256 and `signature` what a trusted key has signed.

    Args:
        trusted_keys: public keys (PEM files), one of which must have signed the folder. By default those that the environment
            names; without any, no signature is asked for.

    Raises:
        SignatureError: none of the trusted keys has signed the folder.
        ManifestError: no valid manifest there.
    """

    def __init__(self, folder: str | Path, trusted_keys: Sequence[str | Path] = ()) -> None:
        self.folder = Path(folder)
        recover_folder(self.folder)
        self.signature = verify_signature(self.folder, trusted_keys_of(trusted_keys))
        if self.signature is None:
            self.manifest, self.digest = Manifest.read(self.folder)
            return
        self.manifest, self.digest = Manifest.read(self.folder, self.signature.manifest_digest)
        self.signature.require_files(self.manifest)

    def read(self, name: str) -> bytes:
        """The content of a listed file, verified.

        Raises:
            ManifestError: the manifest lists no such file.
            DigestError: it is missing or altered.
        """
        with self._open(name) as file:
            content = file.read()
            self._check_digest(name, hash_content(content))
        return content

    def open(self, network: str, file: str | None = None) -> OpenEngine:
        """A network's engine file, or another `file` of it, verified with those beside it whose names begin like it.

        An ONNX file's weights may be apart. They are read only if they are the guard's; others are mapped by the backend.

        Raises:
            ManifestError: the manifest lists no such file, or not all that have its weights.
            DigestError: one is missing or altered.
        """
        name = f"{network}/{file or backend_spec(self.manifest.backend).engine_file}"
        parts = sorted(part for part in self.manifest.files_of(network) if part.startswith(name))
        if name not in parts:
            found = ", ".join(self.manifest.files_of(network)) or "none"
            raise ManifestError(f"{self.folder}: expected {name} in the manifest, found {found}; {REBUILD}")
        contents: dict[str, bytes | mmap | None] = {}
        identities: dict[Path, FileIdentity] = {}
        for part in parts:
            path = self.folder / part
            with self._open(part) as opened:
                identities[path] = FileIdentity.of(opened.fileno())
                contents[path.name] = self._content(part, opened, guard=NETWORKS[network].of_guard, weights=part != name)
        self._check_weights(name, contents[Path(name).name], parts)
        return OpenEngine(self.folder / name, contents, identities)

    def load(self, networks: Sequence[str], backend: Backend) -> dict[str, Engine]:
        """Verify and load networks: one is hashed while others are loaded.

        Raises:
            ManifestError, DigestError: as for `open`.
            BackendError: the backend refuses one, or they were optimised for another device.
        """
        if (device := self.manifest.optimized_for) not in (None, backend.device):
            raise BackendError(
                f"{self.folder}: expected the device that these engines were optimised for, {device}; "
                f"found {backend.device}; optimise again here with: saferedir optimize ENGINE_DIR"
            )
        largest_first = sorted(networks, key=self._size, reverse=True)
        with ThreadPoolExecutor() as pool:
            verified = {name: pool.submit(self.open, name) for name in largest_first}

            def load(name: str) -> Engine:
                return self._load(name, verified.pop(name).result(), backend)

            try:
                # Optimised engines are opened several at a time. Others, whose weights are packed now, would take longer so, and
                # more memory. The pool starts its work in order, so every digest that is waited for has a thread.
                order, mapped = (largest_first[::-1], map) if device is None else (largest_first, pool.map)
                loaded = dict(zip(order, mapped(load, order), strict=True))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return {name: loaded[name] for name in networks}

    def cases(self, network: str) -> list[Case]:
        """The cases of a network that were recorded at build, verified.

        Raises:
            ManifestError, DigestError: as for `read`.
        """
        name = f"{network}/{FILE_NAME}"
        return load_cases(self.folder / name, self.read(name))

    @property
    def networks(self) -> list[str]:
        """The networks that are here."""
        return [name for name in NETWORKS if self.manifest.files_of(name)]

    def require_guard(self) -> None:
        """Raise ManifestError unless these engines were built with a guard."""
        if not self.manifest.guards:
            raise ManifestError(
                f"{self.folder}: expected engines with a guard, found none in the manifest; build them "
                "with: saferedir build --redirector CHECKPOINT (or ask for unguarded "
                "generation explicitly)"
            )

    def _size(self, network: str) -> int:
        return sum(record.size for record in self.manifest.files_of(network).values())

    def _load(self, name: str, opened: OpenEngine, backend: Backend) -> Engine:
        """Load a network from what was verified; once more if a file changed meanwhile, as hard links to it do."""
        for last in (False, True):
            engine = backend.load(opened.path, self.manifest.geometry.spec(name), opened.contents)
            try:
                opened.check_unchanged()
                break
            except DigestError:
                if last:
                    raise
                opened = self.open(name)
        return engine

    def _open(self, name: str) -> BinaryIO:
        """A listed file that has the listed size, open."""
        path, record = self.folder / name, self.manifest.files.get(name)
        if record is None or not path.resolve().is_relative_to(self.folder.resolve()):
            raise ManifestError(f"{path}: expected in the manifest's list of files, found none; {REBUILD}")
        try:
            file = open_regular(path)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise DigestError(f"{path}: missing, though the manifest lists it; {REBUILD}") from None
        if (size := os.fstat(file.fileno()).st_size) != record.size:
            file.close()
            raise DigestError(f"{path}: altered: expected {record.size} bytes, found {size}; {REBUILD}")
        return file

    def _content(self, name: str, file: BinaryIO, guard: bool, weights: bool) -> bytes | mmap | None:
        """What of a file is given to the backend, verified: bytes, a plan mapped, or None for weights that it maps itself.

        The guard is read and hashed at every start, whatever is remembered.
        """
        expected = self.manifest.files[name].sha256
        if guard:
            whole = file.read()
            self._check_digest(name, hash_content(whole))
            return whole
        if weights:
            self._check_digest(name, digest_of(file, expected))
            return None
        remembered = recall(file, expected) is not None
        before = FileIdentity.of(file.fileno()) if remembered else settled_identity(file)
        plans, size = backend_spec(self.manifest.backend).plans, self.manifest.files[name].size
        content = mmap(file.fileno(), 0, access=ACCESS_READ) if plans and size else file.read()
        if not remembered or FileIdentity.of(file.fileno()) != before:
            digest = hash_content(content)
            self._check_digest(name, digest)
            remember(file, before, digest)
        return content

    def _check_digest(self, name: str, digest: str) -> None:
        if digest != (expected := self.manifest.files[name].sha256):
            raise DigestError(f"{self.folder / name}: altered: expected SHA-256 {expected}, found {digest}; {REBUILD}")

    def _check_weights(self, name: str, content: bytes | mmap | None, parts: Sequence[str]) -> None:
        """Raise ManifestError unless every file that an ONNX file takes weights from is listed."""
        if not name.endswith(".onnx") or not isinstance(content, bytes):
            return
        try:
            named = {f"{name.rpartition('/')[0]}/{file}" for file in external_files(content)}
        except ValueError as error:
            raise ManifestError(f"{self.folder / name}: not an ONNX file: {error}; {REBUILD}") from None
        if others := sorted(named - set(parts)):
            raise ManifestError(f"{self.folder / name}: expected weights in listed files, found {others[0]!r}; {REBUILD}")
