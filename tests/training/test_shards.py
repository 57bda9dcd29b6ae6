"""Shards are resumed after a kill, and never taken for those of another training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from engines.errors import InputError
from engines.store.digests import file_digest
from training.shards import INDEX, record_shards

ROOT = Path(__file__).resolve().parents[2]
DECIDED = {"seed": 0}


def tensors(number):
    return {"latents": torch.full((2,), float(number))}


def test_shards_are_recorded_once(tmp_path):
    first = record_shards(tmp_path / "s", DECIDED, 2, tensors)
    asked = []
    again = record_shards(tmp_path / "s", DECIDED, 3, lambda number: asked.append(number) or tensors(number))
    assert again[:2] == first and asked == [2]
    assert [load_file(path)["latents"][0].item() for path in again] == [0, 1, 2]
    assert record_shards(tmp_path / "s", DECIDED, 1, tensors) == first[:1], "fewer are the first of them"


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.training.test_shards import DECIDED, tensors
from training.shards import record_shards

def record(number):
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return tensors(number)

record_shards(Path(sys.argv[2]), DECIDED, 4, record)
"""


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    done = subprocess.run([sys.executable, "-c", KILLED, str(ROOT), str(killed)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (killed / "00002.safetensors").write_bytes(b"written, and killed before the index was")
    asked = []
    record_shards(killed, DECIDED, 4, lambda number: asked.append(number) or tensors(number))
    record_shards(whole, DECIDED, 4, tensors)
    assert asked == [2, 3]
    assert {path.name: file_digest(path) for path in killed.iterdir()} == {path.name: file_digest(path) for path in whole.iterdir()}


@pytest.mark.parametrize(
    "spoil, expected",
    [
        (lambda folder: None, "those of others"),
        (lambda folder: (folder / INDEX).write_text("{}"), "cannot be used"),
        (lambda folder: (folder / "00000.safetensors").write_bytes(b"x"), "missing or altered"),
        (lambda folder: os.remove(folder / "00001.safetensors"), "missing or altered"),
    ],
    ids=["other settings", "no index", "altered", "missing"],
)
def test_other_data_is_an_error(tmp_path, spoil, expected):
    record_shards(tmp_path, DECIDED, 2, tensors)
    spoil(tmp_path)
    with pytest.raises(InputError, match=expected):
        record_shards(tmp_path, {"seed": 1} if expected == "those of others" else DECIDED, 2, tensors)
