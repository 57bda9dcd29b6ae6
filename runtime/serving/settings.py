"""What an operator starts a server with."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path

from engines.printable import shown
from runtime.serving.limits import Limits

HOST, PORT = "127.0.0.1", 7860


def port_number(text: str) -> int:
    """The value of --port. A larger number would be taken for another port by the C library, and listen there."""
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected 0 to 65535, found {shown(text)}")
    return int(text)


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Options of `saferedir serve`.

    engine_dir      folder made by `saferedir build`
    host            address to listen on
    limits          what requests may ask for
    keys            file of API keys; None lets everybody in
    page            whether the page is served at /
    audit           file of the audit's record; None for none
    audit_required  whether a picture is withheld whose record cannot be written
    log_prompts     whether log lines hold prompts, in place of their keyed hash
    threads         that compute on a CPU; by default one for each core
    trusted_keys    public keys (PEM files), one of which must have signed the engines
    """

    engine_dir: Path
    host: str = HOST
    limits: Limits = field(default_factory=Limits)
    keys: Path | None = None
    page: bool = False
    audit: Path | None = None
    audit_required: bool = False
    log_prompts: bool = False
    threads: int | None = None
    trusted_keys: tuple[Path, ...] = ()
