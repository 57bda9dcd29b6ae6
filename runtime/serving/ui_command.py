"""Open a page to generate guarded pictures, for one person at a desk.

It is the page of `saferedir serve --page`, on a free port of this machine that no other machine can reach. Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import socket
import threading
import webbrowser
from dataclasses import replace
from pathlib import Path

from engines.store import default_folder
from engines.store.signature import add_trusted_key_argument
from runtime.serving.limits import Limits
from runtime.serving.process import serve
from runtime.serving.service import Service
from runtime.serving.settings import HOST, ServerSettings, port_number

SECONDS = 5  # for a picture on its way, after Ctrl-C


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("engine_dir", nargs="?", type=Path, help=default_folder.HELP)
    parser.add_argument("--port", type=port_number, default=0, help="0 for a free one (default: %(default)s)")
    parser.add_argument("--limits", type=Path, metavar="FILE", help="TOML, as of saferedir serve: what the page offers")
    parser.add_argument(
        "--allow-unguarded", action="store_true", help="let the page draw a picture without the guard as well, to compare"
    )
    parser.add_argument("--no-browser", action="store_true", help="print the address, and open no browser")
    add_trusted_key_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C or SIGTERM; exit statuses as of `saferedir serve`."""
    service = Service(settings_of(arguments))
    with socket.create_server((HOST, arguments.port)) as listener:
        address = f"http://{HOST}:{listener.getsockname()[1]}"
        print(f"{address}  Ctrl-C ends it", flush=True)
        if arguments.allow_unguarded:
            print("unguarded pictures are allowed: the page can draw each picture without the guard, too", flush=True)
        if not arguments.no_browser:  # what it asks for waits in the listener; some browsers return only when they are closed
            threading.Thread(target=webbrowser.open, args=[address], daemon=True).start()
        return serve(service, listener, grace=SECONDS, log_level="critical")


def settings_of(arguments: argparse.Namespace) -> ServerSettings:
    """The settings of a command line. Only --allow-unguarded allows unguarded pictures, whatever a file of limits says."""
    limits = Limits() if arguments.limits is None else Limits.read(arguments.limits)
    return ServerSettings(
        engine_dir=arguments.engine_dir or default_folder.built_folder(),
        limits=replace(limits, unguarded=arguments.allow_unguarded),
        page=True,
        trusted_keys=tuple(map(Path, arguments.trusted_key)),
    )
