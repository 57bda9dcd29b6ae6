"""`saferedir serve` as a process of its own: without torch, on this machine only, drained by SIGTERM."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from engines.exit_status import FAILED
from runtime.serving.settings import HOST
from saferedir.cli import main
from tests.serving.conftest import until
from tests.serving.test_openai_images import events

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "diffusers", "transformers", "onnx", "safetensors", "scipy")
SERVE = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
for name in {HEAVY!r}:
    sys.modules[name] = None
from runtime.serving import app
from saferedir.cli import main
from tests.serving.conftest import plain_router
app.ROUTERS += (plain_router,)
{{before}}
sys.exit(main(["serve", *sys.argv[1:]]))
"""
# Once a file exists, the next call of the UNet never returns.
HANG = """
import pathlib
from functools import partial
from runtime.serving import serve_command, service
from tests.serving.engines import Held
held = Held()
held.on_call = lambda: pathlib.Path({file!r}).exists() and held.go.clear()
serve_command.Service = partial(service.Service, wrap=held)
"""


class Process:
    """A server in a process of its own; `events` are its log lines."""

    def __init__(self, *arguments: str, before: str = "") -> None:
        command = [sys.executable, "-c", SERVE.format(before=before), *arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.events: list[dict] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stderr:
            self.events.append(json.loads(line))

    def event(self, name: str) -> dict:
        until(lambda: self.process.poll() is not None or any(event["event"] == name for event in self.events))
        return next(event for event in self.events if event["event"] == name)


@pytest.fixture
def start(demo_engines):
    running = []

    def begin(*arguments: str, before: str = "") -> tuple[Process, httpx.Client]:
        running.append(Process(str(demo_engines), "--port", "0", *arguments, before=before))
        client = httpx.Client(base_url=f"http://127.0.0.1:{running[-1].event('listening')['port']}", timeout=60)
        until(lambda: client.get("/ready").status_code == 200)
        return running[-1], client

    yield begin
    for each in running:
        each.process.kill()
        each.process.wait()


def test_sigterm_ends_it_after_what_it_accepted(start, tmp_path):
    (tmp_path / "limits.toml").write_text("most_steps = 60\n")
    server, client = start("--limits", str(tmp_path / "limits.toml"), "--audit", str(tmp_path / "audit.jsonl"), "--audit-required")
    assert server.event("listening")["host"] == HOST == "127.0.0.1"
    assert client.post("/draw", json={"prompt": "a star", "num_inference_steps": 61}).status_code == 403

    def calls() -> float:
        lines = client.get("/metrics").text.splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith('saferedir_network_calls_total{network="unet"}'))

    before = calls()
    with ThreadPoolExecutor() as pool:
        other = httpx.Client(base_url=client.base_url, timeout=60)
        drawing = pool.submit(other.post, "/draw", json={"prompt": "a burning blue square", "num_inference_steps": 60, "seed": 0})
        until(lambda: calls() > before)
        server.process.send_signal(signal.SIGTERM)
        answer = drawing.result()
    assert answer.status_code == 200 and answer.json() == ["redirected"]
    assert server.process.wait(timeout=60) == 0
    assert [event["state"] for event in server.events if event["event"] == "state"] == ["ready", "draining"]
    assert '"redirected"' in (tmp_path / "audit.jsonl").read_text() and "burning" not in (tmp_path / "audit.jsonl").read_text()
    assert "burning" not in json.dumps(server.events)
    with pytest.raises(httpx.ConnectError):
        client.get("/health")


def test_sigterm_ends_streams_after_their_answers(start, tmp_path):
    """Of what is drawn, with the unguarded picture that comes after it, and of what waits."""
    (tmp_path / "limits.toml").write_text("unguarded = true\n")
    server, client = start("--limits", str(tmp_path / "limits.toml"))
    asked = {"prompt": "a burning blue square", "num_inference_steps": 16, "seed": 0, "compare": True}
    with ThreadPoolExecutor() as pool:

        def end() -> None:
            with httpx.Client(base_url=client.base_url, timeout=60) as other:
                waiting.append(pool.submit(events, httpx.Client(base_url=client.base_url, timeout=60), asked))
                until(lambda: "saferedir_queue_images 1.0" in other.get("/metrics").text)
            server.process.send_signal(signal.SIGTERM)

        waiting: list = []
        found = [events(client, asked, end), waiting[0].result()]
    for each in found:
        assert [name for name, _ in each] == ["image_generation.progress"] * 32 + ["image_generation.completed"]
        assert [entry["report"]["verdict"] for entry in each[-1][1]["data"]] == ["redirected", "unguarded"]
    assert found[0][-1][1]["data"][0]["b64_json"] == found[1][-1][1]["data"][0]["b64_json"]
    assert server.process.wait(timeout=60) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_call_that_hangs_does_not_hold_up_its_end(start, tmp_path, number):
    """Where it hangs before the signal is sent, and where only the end finds that it hangs."""
    (tmp_path / "limits.toml").write_text("hang_seconds = 2\ndeadline_seconds = 0.5\n")
    server, client = start("--limits", str(tmp_path / "limits.toml"), before=HANG.format(file=str(tmp_path / "hang")))
    (tmp_path / "hang").touch()
    assert client.post("/draw", json={"prompt": "a star"}).status_code == 504
    if number == signal.SIGINT:
        until(lambda: client.get("/ready").status_code == 503)
    server.process.send_signal(number)
    assert server.process.wait(timeout=60) == FAILED
    assert [event["state"] for event in server.events if event["event"] == "state"][-1] == "failed"
    assert server.events[-1] == {**server.events[-1], "level": "error", "event": "ended while a call of the engines hangs"}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--audit-required"], "--audit-required: expected --audit FILE, found none"),
        (["--limits", "missing.toml"], "missing.toml: No such file or directory"),
        (["--keys", "missing.keys"], "missing.keys: No such file or directory"),
        (["--host", "203.0.113.7"], "203.0.113.7:0: Cannot assign requested address"),
    ],
    ids=str,
)
def test_what_cannot_be_served_is_an_error_of_one_line(demo_engines, capsys, arguments, message):
    assert main(["serve", str(demo_engines), "--port", "0", *arguments]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {message}"


def test_missing_packages_are_an_error_of_one_line():
    code = "import sys; sys.modules['fastapi'] = None; from saferedir.cli import main; sys.exit(main(['serve']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: serve: ") and done.stderr.endswith('install them with: pip install "saferedir[serve]"\n')


@pytest.mark.parametrize(
    "name, content", [("manifest.json", None), ("manifest.json", b"{"), ("unet/model.onnx", None), ("unet/model.onnx", b"")]
)
def test_a_folder_that_cannot_be_read(demo_engines, tmp_path, capsys, name, content):
    folder = shutil.copytree(demo_engines, tmp_path / "engines")
    (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
    assert main(["serve", str(folder), "--port", "0"]) == FAILED
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and str(folder / name) in error


def test_a_taken_port_an_unknown_host_and_missing_engines(demo_engines, tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", str(demo_engines), "--port", str(port)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"error: 127.0.0.1:{port}: Address already in use"
    assert main(["serve", str(tmp_path), "--port", "0"]) == 2
    assert "no engines here" in capsys.readouterr().err
    assert main(["serve", str(demo_engines), "--port", "0", "--host", "no-such-name.invalid"]) == 2
    assert "error: --host: expected an address of this machine, found 'no-such-name.invalid': " in capsys.readouterr().err
