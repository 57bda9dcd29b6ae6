"""The signature of an engine folder: who vouches for its manifest, and through it for every file.

The format is that of the `model-signing` library (a sigstore bundle, model.sig), so that `model_signing verify key` agrees.
Here the bundle is checked before anything else is read, and the folder is not hashed as a whole: the signature covers
manifest.json, and the store compares each file with the manifest when it opens it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.errors import InputError, SignatureError
from engines.install import install
from engines.manifest import FILE_NAME, Manifest

SIGNATURE_FILE = "model.sig"  # the library's own default
ENVIRONMENT = "SAFEREDIR_TRUSTED_KEYS"
SIGN = "sign with: saferedir sign ENGINE_DIR --key KEY.pem"


@dataclass(frozen=True)
class Signature:
    """What a trusted key has signed.

    key      the trusted key's file
    digests  SHA-256 of each signed file, by its name relative to the folder
    """

    folder: Path
    key: Path
    digests: Mapping[str, str]

    @property
    def manifest_digest(self) -> str:
        """The signed SHA-256 of manifest.json."""
        return self.digests[FILE_NAME]

    def require_files(self, manifest: Manifest) -> None:
        """Raise SignatureError unless every file that the manifest lists was signed with the digest that it lists."""
        for name, record in manifest.files.items():
            if (signed := self.digests.get(name)) != record.sha256:
                expected = f"{name} with SHA-256 {record.sha256}"
                raise SignatureError(f"{self.folder / SIGNATURE_FILE}: expected {expected}, found {signed or 'none'}; {SIGN}")


def signature_in_words(folder: Path, signature: Signature | None) -> str:
    """Who vouches for a folder, in a few words."""
    if signature is not None:
        return f"by the trusted key {signature.key}"
    return f"{SIGNATURE_FILE}, not checked: no trusted key was given" if (folder / SIGNATURE_FILE).is_file() else "none"


def trusted_keys_of(given: Sequence[str | Path]) -> tuple[Path, ...]:
    """The keys that were given, else those that the environment names, separated as in PATH.

    Raises:
        InputError: one is not a file, or they are not in a list.
    """
    if not isinstance(given, list | tuple) or not all(isinstance(key, str | Path) for key in given):
        raise InputError(f"trusted_keys: expected a list of paths, found {given!r}")
    named = list(given) or [name for name in os.environ.get(ENVIRONMENT, "").split(os.pathsep) if name]
    keys = tuple(map(Path, named))
    for key in keys:
        if not key.is_file():
            raise InputError(f"{key}: expected a trusted key (PEM), found no such file; see --trusted-key and {ENVIRONMENT}")
    return keys


def verify_signature(folder: Path, keys: Sequence[Path]) -> Signature | None:
    """What one of the keys has signed in a folder, of which the signature alone is read; None without keys.

    Raises:
        SignatureError: there is no signature, it is damaged, or none of the keys made it.
        InputError: a key cannot be used, or the library is not installed.
    """
    if not keys:
        return None
    path, reasons = folder / SIGNATURE_FILE, []
    verifiers = {key: _verifier(key) for key in keys}
    if not path.is_file():
        raise SignatureError(f"{path}: expected the signature of a trusted key, found none; {SIGN}")
    for key, verifier in verifiers.items():
        signed = _SignedFiles()
        try:
            verifier.set_hashing_config(_hashing_nothing(signed)).verify(folder, path)
        except Exception as error:  # ValueError, KeyError, InvalidSignature, …: the content is anybody's
            reasons.append(f"{key.name}: {_in_words(error)}")
            continue
        if FILE_NAME not in signed.digests:
            reasons.append(f"{key.name}: a signature without the SHA-256 of {FILE_NAME}")
            continue
        return Signature(folder, key, signed.digests)
    raise SignatureError(f"{path}: expected the signature of a trusted key, found another ({'; '.join(reasons)}); {SIGN}")


class _SignedFiles:
    """Receives the verified list of files: the library compares it with what the hashing returned, by `!=`."""

    def __init__(self) -> None:
        self.digests: dict[str, str] = {}

    def __eq__(self, manifest: Any) -> bool:
        for file in manifest.resource_descriptors():
            if file.digest.algorithm == "sha256":
                self.digests[file.identifier] = file.digest.digest_hex
        return True

    __hash__ = None  # type: ignore[assignment]


def _hashing_nothing(signed: _SignedFiles) -> Any:
    """A configuration of the library's hashing that reads no file: the store does, once, as it opens them."""
    from model_signing import hashing

    class Deferred(hashing.Config):  # type: ignore[misc]
        def hash(self, model_path: Any, *, files_to_hash: Any = None) -> Any:
            return signed

    return Deferred()


def _verifier(key: Path) -> Any:
    verifying = import_library("verifying")
    try:
        return verifying.Config().use_elliptic_key_verifier(public_key=key)
    except Exception as error:  # ValueError, AttributeError (an RSA key), cryptography's UnsupportedAlgorithm
        raise InputError(f"{key}: expected a public key (PEM, P-256), cannot be used: {_in_words(error)}") from None


def import_library(module: str) -> Any:
    """A module of `model_signing`.

    Raises:
        InputError: it is not installed.
    """
    from importlib import import_module

    try:
        return import_module(f"model_signing.{module}")
    except ImportError as error:
        raise InputError(f"model-signing cannot be used ({error}); install it with: {install('signing')}") from None


def _in_words(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if text and len(text) <= 200 else type(error).__name__


def add_trusted_key_argument(parser: argparse.ArgumentParser) -> None:
    """Add --trusted-key."""
    parser.add_argument(
        "--trusted-key",
        type=Path,
        action="append",
        default=[],
        metavar="PUB.pem",
        help=f"refuse engines that this key has not signed; may be given several times (default: those in ${ENVIRONMENT}, or none)",
    )
