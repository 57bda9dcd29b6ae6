"""Serve guarded pictures over HTTP, to clients of OpenAI's and AUTOMATIC1111's APIs.

It listens on this machine only unless --host says otherwise. SIGTERM and Ctrl-C end it: what was accepted is drawn first.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from pathlib import Path

import uvicorn

from engines.exit_status import DONE
from engines.store.default_folder import engine_folder
from engines.store.signature import add_trusted_key_argument
from runtime.serving.app import create_app, is_local
from runtime.serving.limits import Limits
from runtime.serving.log import LOGGER, log
from runtime.serving.settings import HOST, PORT, ServerSettings

DRAIN_SECONDS = 5.0  # after the deadline of the last request


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument(
        "engine_dir", nargs="?", type=Path, default=engine_folder(), help="made by saferedir build (default: %(default)s)"
    )
    parser.add_argument("--host", default=HOST, help="address to listen on (default: %(default)s, this machine only)")
    parser.add_argument("--port", type=int, default=PORT, help="0 for a free one (default: %(default)s)")
    parser.add_argument("--limits", type=Path, metavar="FILE", help="TOML: what requests may ask for (default: docs/serving.md)")
    parser.add_argument("--keys", type=Path, metavar="FILE", help="API keys, a line NAME KEY for each (default: everybody may ask)")
    parser.add_argument("--page", action="store_true", help="serve a page for browsers at /")
    parser.add_argument("--log-prompts", action="store_true", help="log prompts, in place of keyed hashes of them")
    add_trusted_key_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C; exit status 0 once everything accepted was answered."""
    settings = settings_of(arguments)
    LOGGER.addHandler(logging.StreamHandler(sys.stderr))
    LOGGER.setLevel(logging.INFO)
    if not is_local(settings.host) and settings.keys is None:
        log("warning", text=f"{settings.host}: others than this machine may reach it, and there are no API keys; see --keys")
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=arguments.port,
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=round(settings.limits.deadline_seconds + DRAIN_SECONDS),
    )
    signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it once more when it has drained
    uvicorn.Server(config).run()
    return DONE


def settings_of(arguments: argparse.Namespace) -> ServerSettings:
    """The settings of a command line."""
    return ServerSettings(
        engine_dir=arguments.engine_dir,
        host=arguments.host,
        limits=Limits() if arguments.limits is None else Limits.read(arguments.limits),
        keys=arguments.keys,
        page=arguments.page,
        log_prompts=arguments.log_prompts,
        trusted_keys=tuple(map(Path, arguments.trusted_key)),
    )
