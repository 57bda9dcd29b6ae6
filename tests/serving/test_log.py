"""Lines of the log go where standard error is, each once."""

from __future__ import annotations

import io
import json
import logging
import sys

import pytest

from runtime.serving.log import LOGGER, log, log_to_stderr


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """The logger is every test's."""
    monkeypatch.setattr(LOGGER, "handlers", [])
    level = LOGGER.level
    yield
    LOGGER.setLevel(level)


def test_a_line_is_printed_once_however_often_that_is_asked_for(capsys):
    log_to_stderr()
    log_to_stderr()
    log("state", state="ready", prompts=3)
    (line,) = map(json.loads, capsys.readouterr().err.splitlines())
    assert line.pop("time").endswith("+00:00")
    assert line == {"level": "info", "event": "state", "state": "ready", "prompts": 3}


def test_lines_follow_standard_error(monkeypatch, capsys):
    first, second = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", first)
    log_to_stderr()
    log("one")
    first.close()
    monkeypatch.setattr(sys, "stderr", second)
    log("two", logging.WARNING)
    assert [json.loads(line)["event"] for line in second.getvalue().splitlines()] == ["two"]


def test_what_cannot_be_printed_ends_nothing(monkeypatch):
    monkeypatch.setattr(logging, "raiseExceptions", False)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    log_to_stderr()
    sys.stderr.close()
    log("lost")
