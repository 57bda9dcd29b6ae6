"""Serve guarded pictures over HTTP, to clients of OpenAI's and AUTOMATIC1111's APIs.

It listens on this machine only unless --host says otherwise. SIGTERM and Ctrl-C end it: what was accepted is drawn first.
"""

from __future__ import annotations

import argparse
import logging
import socket
from pathlib import Path

from engines.errors import InputError
from engines.install import install
from engines.printable import shown
from engines.store import default_folder
from engines.store.signature import add_trusted_key_argument

try:
    from runtime.serving.app import is_local
    from runtime.serving.limits import Limits
    from runtime.serving.log import log, log_to_stderr
    from runtime.serving.process import serve
    from runtime.serving.service import Service
    from runtime.serving.settings import HOST, PORT, ServerSettings, port_number
except ImportError as error:
    raise InputError(f"serve: expected its packages, found one missing ({error}); install them with: {install('serve')}") from None

DRAIN_SECONDS = 5.0  # after the deadline of the last request


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("engine_dir", nargs="?", type=Path, help=default_folder.HELP)
    parser.add_argument("--host", default=HOST, help="address to listen on (default: %(default)s, this machine only)")
    parser.add_argument("--port", type=port_number, default=PORT, help="0 for a free one (default: %(default)s)")
    parser.add_argument("--limits", type=Path, metavar="FILE", help="TOML: what requests may ask for (default: docs/serving.md)")
    parser.add_argument("--keys", type=Path, metavar="FILE", help="API keys, a line NAME KEY for each (default: everybody may ask)")
    parser.add_argument("--page", action="store_true", help="serve a page for browsers at /")
    parser.add_argument("--audit", type=Path, metavar="FILE", help="append a record of every image; saferedir audit verifies it")
    parser.add_argument("--audit-required", action="store_true", help="withhold an image whose record cannot be written")
    parser.add_argument("--log-prompts", action="store_true", help="log prompts, in place of keyed hashes of them")
    parser.add_argument("--threads", type=int, help="that compute on a CPU (default: one for each core)")
    add_trusted_key_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C; exit statuses are those of `runtime.serving.process`, after Ctrl-C 130 (`saferedir.cli`)."""
    settings = settings_of(arguments)
    log_to_stderr()
    with _bound(settings.host, arguments.port) as listener:
        service = Service(settings)
        _warn(settings)
        listener.listen()
        log("listening", host=settings.host, port=listener.getsockname()[1])
        return serve(service, listener, grace=settings.limits.deadline_seconds + DRAIN_SECONDS, log_level="warning")


def settings_of(arguments: argparse.Namespace) -> ServerSettings:
    """The settings of a command line."""
    if arguments.audit_required and arguments.audit is None:
        raise InputError("--audit-required: expected --audit FILE, found none")
    return ServerSettings(
        engine_dir=arguments.engine_dir or default_folder.built_folder(),
        host=arguments.host,
        limits=Limits() if arguments.limits is None else Limits.read(arguments.limits),
        keys=arguments.keys,
        page=arguments.page,
        audit=arguments.audit,
        audit_required=arguments.audit_required,
        log_prompts=arguments.log_prompts,
        threads=arguments.threads,
        trusted_keys=tuple(map(Path, arguments.trusted_key)),
    )


def _bound(host: str, port: int) -> socket.socket:
    """A socket that has its address and does not listen yet.

    Raises:
        InputError: no address has this name.
        OSError: it cannot have it.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise InputError(f"--host: expected an address of this machine, found {shown(host)}: {error.strerror}") from None
    bound = socket.socket(family, kind, protocol)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise OSError(error.errno, error.strerror, f"{host}:{port}") from None
    return bound


def _warn(settings: ServerSettings) -> None:
    """Say what an operator may not have meant."""
    if not is_local(settings.host) and settings.keys is None:
        log("other machines may reach it, and there are no API keys", logging.WARNING, host=settings.host)
    if settings.limits.unguarded:
        log("pictures without the guard may be asked for", logging.WARNING)
