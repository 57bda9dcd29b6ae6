"""A server as a process: it answers until a signal ends it, and its exit status says how."""

from __future__ import annotations

import logging
import os
import signal
import socket

import uvicorn

from engines.exit_status import DONE, FAILED
from runtime.serving.app import app_of
from runtime.serving.log import log
from runtime.serving.service import Service


def serve(service: Service, listener: socket.socket, *, grace: float, log_level: str) -> int:
    """Answer until SIGTERM or Ctrl-C; what was accepted may take `grace` seconds more. `log_level` is uvicorn's.

    Exit status 0 once everything was answered and the engines are free. Where a call of them hangs, the process ends here.
    """
    signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it once more when it has drained
    config = uvicorn.Config(app_of(service), access_log=False, log_level=log_level, timeout_graceful_shutdown=round(grace))
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        if service.hangs:
            log("ended while a call of the engines hangs", logging.ERROR, exit_status=FAILED)
            os._exit(FAILED)  # whatever frees the engines would wait for it
    return DONE
