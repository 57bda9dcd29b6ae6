"""saferedir ui: the page on a port of its own, a browser that opens it, and no unguarded picture unless asked for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import httpx
import pytest

from engines.exit_status import DONE, INTERRUPTED
from runtime.serving.ui_command import settings_of
from saferedir.cli import main, parse
from tests.serving.conftest import until


@pytest.mark.parametrize("number, status", [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, DONE)], ids=["SIGINT", "SIGTERM"])
def test_it_opens_a_browser_and_ends_with_a_signal(demo_engines, tmp_path, number, status):
    browser, opened = tmp_path / "browser.sh", tmp_path / "opened"
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}\n')
    browser.chmod(0o755)
    command = [sys.executable, "-m", "saferedir", "ui", str(demo_engines)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "BROWSER": f"{browser} %s"}) as process:
        try:
            address = process.stdout.readline().split()[0]
            until(lambda: opened.exists() and opened.read_text())
            until(lambda: httpx.get(f"{address}/ready").status_code == 200)
            assert address.startswith("http://127.0.0.1:") and opened.read_text().strip() == address
            assert "<title>SafeRedir" in httpx.get(address).text
            assert httpx.get(f"{address}/v1/models").json()["data"][0]["saferedir"]["unguarded"] is False
        finally:
            process.send_signal(number)
        assert process.wait(timeout=30) == status
        assert process.stdout.read() == ""


@pytest.mark.parametrize("command", ["serve", "ui"])
@pytest.mark.parametrize("port", ["65536", "99999", "x"])
def test_a_port_that_is_none(command, port, capsys):
    assert main([command, "--port", port]) == 2
    error = capsys.readouterr().err
    assert error == f"error: argument --port: expected 0 to 65535, found '{port}'; saferedir {command} --help lists the options\n"


def test_only_its_option_allows_unguarded_pictures(tmp_path):
    limits = tmp_path / "limits.toml"
    limits.write_text("unguarded = true\nmost_steps = 30\n")
    for more, unguarded in ([], False), (["--allow-unguarded"], True):
        settings = settings_of(parse(["ui", "engines", "--limits", str(limits), *more]))
        assert settings.limits.unguarded is unguarded and settings.limits.most_steps == 30 and settings.page
