"""API keys from a file: who calls."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from pathlib import Path

from engines.errors import InputError
from engines.printable import shown
from runtime.serving.errors import AuthenticationError

ADMIN = "admin"  # the name of the key that may turn a failed server on again
SHORTEST = 16  # characters of a key


class ApiKeys:
    """Who may call. Without a file everybody may, under the name "".

    A file has a line for each key, NAME KEY; empty lines and those that begin with # are left out. What is compared are SHA-256
    digests, each of them in constant time, so that no answer comes sooner for a key that is nearly right.

    Raises:
        InputError: a line of another form, a short key, or a name or key that comes twice.
    """

    def __init__(self, file: Path | None) -> None:
        self._digests: dict[str, bytes] | None = None if file is None else _read(file)

    @property
    def required(self) -> bool:
        """Whether callers need a key."""
        return self._digests is not None

    def name_of(self, headers: Mapping[str, str]) -> str:
        """The name of the key that a request's headers carry: as bearer token (OpenAI) or as password of basic (AUTOMATIC1111).

        Raises:
            AuthenticationError: none, or an unknown one.
        """
        if self._digests is None:
            return ""
        given = hashlib.sha256(_key(headers.get("authorization", ""))).digest()
        found = [name for name, digest in self._digests.items() if hmac.compare_digest(digest, given)]
        if not found:
            raise AuthenticationError("authorization: expected an API key of this server as bearer token, found none that it knows")
        return found[0]

    def require_admin(self, headers: Mapping[str, str]) -> None:
        """Raise AuthenticationError unless a request carries the admin's key. Without a file of keys nobody has it."""
        if self._digests is None or self.name_of(headers) != ADMIN:
            raise AuthenticationError(f"authorization: expected the key named {ADMIN}, found another or none")


def _read(file: Path) -> dict[str, bytes]:
    """Digests by name."""
    digests: dict[str, bytes] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or len(words[1]) < SHORTEST:  # the message must not hold a key
            raise InputError(
                f"{file}: line {number}: expected NAME KEY, the key of {SHORTEST} characters or more, found another text"
            )
        digest = hashlib.sha256(words[1].encode()).digest()
        if words[0] in digests or digest in digests.values():
            raise InputError(f"{file}: line {number}: expected a new name and key, found {shown(words[0])} or its key again")
        digests[words[0]] = digest
    if not digests:
        raise InputError(f"{file}: expected a key or more, found none")
    return digests


def _key(authorization: str) -> bytes:
    """The key in an Authorization header; empty where there is none."""
    scheme, _, credentials = authorization.strip().partition(" ")
    if scheme.lower() == "bearer":
        return credentials.strip().encode()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(credentials, validate=True).partition(b":")[2]
        except ValueError:
            return b""
    return b""
