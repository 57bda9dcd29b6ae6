"""A folder of built engines: its manifest lists every file, and each is hashed before it is deserialised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from engines.backends.contract import Backend, Engine
from engines.backends.registry import backend_spec
from engines.errors import BackendError, DigestError, ManifestError
from engines.manifest import REBUILD, Manifest
from engines.networks import NETWORKS
from engines.store.atomic import recover_folder
from engines.store.digests import file_digest, remembered_digest
from engines.store.recorded_cases import FILE_NAME, Case, load_cases
from engines.store.signature import trusted_keys_of, verify_signature

TOKENIZER_FILE = "tokenizer/tokenizer.json"


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

    @property
    def tokenizer(self) -> Path:
        """The tokenizer's file, verified."""
        return self._verified(TOKENIZER_FILE)

    def model(self, network: str) -> Path:
        """A network's engine file, verified; raises as `verified`."""
        return self.verified(network, backend_spec(self.manifest.backend).engine_file)

    def verified(self, network: str, file: str) -> Path:
        """A file of a network, verified with those beside it whose names begin like it: an ONNX file's weights may be apart.

        Raises:
            ManifestError: the manifest lists no such file.
            DigestError: one is missing or altered.
        """
        name, files = f"{network}/{file}", self.manifest.files_of(network)
        if name not in files:
            raise ManifestError(f"{self.folder}: expected {name} in the manifest, found {', '.join(files) or 'none'}; {REBUILD}")
        for part in files:
            if part.startswith(name):
                # The guard is hashed at every start, whatever is remembered.
                self._verified(part, file_digest if NETWORKS[network].of_guard else remembered_digest)
        return self.folder / name

    def load(self, networks: Sequence[str], backend: Backend) -> dict[str, Engine]:
        """Verify and load networks: one is hashed while others are loaded.

        Raises:
            ManifestError, DigestError: as for `model`.
            BackendError: the backend refuses one, or they were optimised for another device.
        """
        if (device := self.manifest.optimized_for) not in (None, backend.device):
            raise BackendError(
                f"{self.folder}: expected the device that these engines were optimised for, {device}; "
                f"found {backend.device}; optimise again here with: saferedir optimize ENGINE_DIR"
            )
        largest_first = sorted(networks, key=self._size, reverse=True)
        with ThreadPoolExecutor() as pool:
            verified = {name: pool.submit(self.model, name) for name in largest_first}

            def load(name: str) -> Engine:
                return backend.load(verified[name].result(), NETWORKS[name])

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
            ManifestError, DigestError: as for `model`.
        """
        return load_cases(self._verified(f"{network}/{FILE_NAME}"))

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

    def _verified(self, name: str, digest_of: Callable[[Path], str] = file_digest) -> Path:
        path, record = self.folder / name, self.manifest.files.get(name)
        if record is None or not path.resolve().is_relative_to(self.folder.resolve()):
            raise ManifestError(f"{path}: expected in the manifest's list of files, found none; {REBUILD}")
        if not path.is_file():
            raise DigestError(f"{path}: missing, though the manifest lists it; {REBUILD}")
        if (size := path.stat().st_size) != record.size:
            raise DigestError(f"{path}: altered: expected {record.size} bytes, found {size}; {REBUILD}")
        if (digest := digest_of(path)) != record.sha256:
            raise DigestError(f"{path}: altered: expected SHA-256 {record.sha256}, found {digest}; {REBUILD}")
        return path
