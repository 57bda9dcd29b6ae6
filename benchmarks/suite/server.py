"""A server under test: `saferedir serve` in a process of its own, on a free port of this machine."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.suite.machine import resident_memory_bytes
from engines.errors import InputError

HOST = "127.0.0.1"
START_SECONDS = 300.0


@dataclass(frozen=True)
class Server:
    """One that is ready, and its process."""

    url: str
    process: int

    def resident_bytes(self) -> int | None:
        """Memory that its process holds, None where the system does not tell."""
        return resident_memory_bytes(self.process)


def free_port() -> int:
    """One of HOST that nothing listens on now."""
    with socket.create_server((HOST, 0)) as free:
        port: int = free.getsockname()[1]
        return port


def write_limits(limits: Mapping[str, Any], folder: Path) -> Path:
    """The file of these limits, in `folder`."""
    file = folder / "limits.toml"
    file.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in limits.items()))
    return file


@contextmanager
def serving(engine_dir: Path, limits: Mapping[str, Any], options: Sequence[str] = ()) -> Iterator[Server]:
    """A server with these limits and more options of the command; it ends with the block.

    Raises:
        InputError: it ended, or is not ready in START_SECONDS.
    """
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        file, log = write_limits(limits, Path(folder)), Path(folder) / "log"
        command = [
            sys.executable,
            "-m",
            "saferedir",
            "serve",
            str(engine_dir),
            "--port",
            str(port),
            "--limits",
            str(file),
            *options,
        ]
        with log.open("w") as lines:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=lines)
        try:
            _wait_until_ready(f"http://{HOST}:{port}", process, log)
            yield Server(f"http://{HOST}:{port}", process.pid)
        finally:
            process.terminate()
            process.wait()


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            last = log.read_text().strip().split("\n")[-1]
            raise InputError(f"saferedir serve: expected it to start, found that it ended with status {process.returncode}: {last}")
        try:
            if httpx.get(f"{url}/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise InputError(f"saferedir serve: expected it to be ready within {START_SECONDS:.0f} s, found that it is not")
