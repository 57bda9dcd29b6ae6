"""Sign a folder of engines, so that others can require your key: saferedir generate --trusted-key PUB.pem

Every file is hashed and must be as the manifest lists it. The signature is model.sig in the folder, in the format of the
`model-signing` library: `model_signing verify key ENGINE_DIR --signature ENGINE_DIR/model.sig --public_key PUB.pem` checks it, too.

A key pair:
  openssl ecparam -name prime256v1 -genkey -noout -out KEY.pem
  openssl ec -in KEY.pem -pubout -out PUB.pem
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from engines.errors import DigestError, InputError, ManifestError
from engines.manifest import FILE_NAME, REBUILD, Manifest
from engines.store.atomic import replacing
from engines.store.signature import SIGNATURE_FILE, import_library


def sign(folder: Path, key: Path) -> Path:
    """Sign the engines of a folder with a private key (PEM, P-256, not encrypted); the path of the signature.

    Raises:
        ManifestError, DigestError: a file is missing, altered or not listed in the manifest.
        InputError: the key cannot be used, or the library is not installed.
    """
    manifest, digest = Manifest.read(folder)
    expected = {FILE_NAME: digest} | {name: record.sha256 for name, record in manifest.files.items()}
    config = _signer(key).set_hashing_config(_checked_hashing(folder, expected))
    with tempfile.TemporaryDirectory() as other:  # what is written into the engine folder meanwhile would be hashed
        written = Path(other) / SIGNATURE_FILE
        config.sign(folder, written)
        with replacing(folder / SIGNATURE_FILE) as temporary:
            temporary.write_bytes(written.read_bytes())
    return folder / SIGNATURE_FILE


def _signer(key: Path) -> Any:
    signing = import_library("signing")
    if not key.is_file():
        raise InputError(f"--key: expected a private key (PEM, P-256), found no file {key}")
    try:
        return signing.Config().use_elliptic_key_signer(private_key=key)
    except Exception as error:  # ValueError, TypeError and cryptography's own
        raise InputError(
            f"--key: expected a private key (PEM, P-256, not encrypted), found {key}, which cannot be used: {str(error)[:200]}"
        ) from None


def _checked_hashing(folder: Path, expected: dict[str, str]) -> Any:
    """The library's hashing of a folder, which fails where the result is not what the manifest lists."""
    from model_signing import hashing

    class Checked(hashing.Config):  # type: ignore[misc]
        def hash(self, model_path: Any, *, files_to_hash: Any = None) -> Any:
            try:
                hashed = super().hash(model_path, files_to_hash=files_to_hash)
            except ValueError as error:  # symbolic links, sockets
                raise ManifestError(f"{folder}: expected nothing but files, cannot be signed: {error}") from None
            _check(folder, {file.identifier: file.digest.digest_hex for file in hashed.resource_descriptors()}, expected)
            return hashed

    return Checked().set_ignored_paths(paths=[SIGNATURE_FILE])


def _check(folder: Path, found: dict[str, str], expected: dict[str, str]) -> None:
    for name, digest in expected.items():
        if name not in found:
            raise DigestError(f"{folder / name}: missing, though the manifest lists it; {REBUILD}")
        if found[name] != digest:
            raise DigestError(f"{folder / name}: altered: expected SHA-256 {digest}, found {found[name]}; {REBUILD}")
    if surplus := sorted(set(found) - set(expected)):
        more = f" and {len(surplus) - 1} more" if len(surplus) > 1 else ""
        raise ManifestError(f"{folder}: expected the files that the manifest lists, found also {surplus[0]!r}{more}; remove it")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("engine_dir", type=Path, help="folder made by saferedir build")
    parser.add_argument("--key", type=Path, required=True, metavar="KEY.pem", help="private key: PEM, P-256, not encrypted")


def run(arguments: argparse.Namespace) -> int:
    """Write the signature and print its path; exit status 0."""
    path = sign(arguments.engine_dir, arguments.key)
    print(f"{path}: signed; engines load with --trusted-key and the public key that belongs to {arguments.key}")
    return 0
