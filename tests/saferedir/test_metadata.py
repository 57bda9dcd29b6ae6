"""A checkpoint's metadata is written beside its tensors and read strictly."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import safetensors.torch
import torch

from engines.canary import Canary
from engines.errors import InputError
from engines.policy import Policy
from saferedir.checkpoint import load_redirector, save_redirector
from saferedir.heads import Redirector
from saferedir.metadata import KEY, Metadata, read_metadata
from tests.random_heads import SMALL

FULL = Metadata(
    canaries=[Canary("a burning star", True, 3), Canary("", False, -1, timestep=1)],
    final_check=True,
    policy=Policy(threshold=0.25, alpha_scale=2, replace_steps=0, shift="conditional"),
    check="before",
    concept="Van Gogh",
)


def test_round_trip_beside_the_tensors(tmp_path):
    model, path = Redirector(SMALL), tmp_path / "heads.safetensors"
    save_redirector(model, path, FULL)
    assert read_metadata(path) == FULL
    loaded = load_redirector(path).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_checkpoints_without_metadata_have_the_references_defaults(tmp_path, suffix):
    save_redirector(Redirector(SMALL), tmp_path / f"heads{suffix}")
    assert read_metadata(tmp_path / f"heads{suffix}") == Metadata([], False, Policy(), "auto", "")


def test_a_state_dict_has_no_place_for_metadata(tmp_path):
    with pytest.raises(InputError, match=r"heads.pt: expected a file ending in .safetensors, .* found '.pt'"):
        save_redirector(Redirector(SMALL), tmp_path / "heads.pt", FULL)
    assert not list(tmp_path.iterdir())


def test_metadata_of_others_is_not_ours(tmp_path):
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "heads.safetensors", {"format": "pt"})
    assert read_metadata(tmp_path / "heads.safetensors") == Metadata()


@pytest.mark.parametrize(
    "content, message",
    [
        ({"concepts": "fire"}, "saferedir: expected only known fields, found 'concepts'"),
        ({"concept": None}, "concept: expected text, found None"),
        ({"concept": "fire:red"}, "concept: expected a concept's name of 1 to 64 letters, .* found 'fire:red'"),
        ({"concept": " "}, "concept: expected a concept's name .* found ' '"),
        ({"concept": "f" * 65}, "concept: expected a concept's name of 1 to 64"),
        ({"concept": "fire\x1b[2J"}, r"concept: expected a concept's name .* found 'fire\\x1b\[2J'"),
        ({"canaries": [{"prompt": "a", "unsafe": True}]}, r"canaries\[0\]: expected the fields seed"),
        ({"canaries": [{"prompt": "a", "unsafe": True, "seed": 1, "p_unsafe": 0.9}]}, "known fields, found 'p_unsafe'"),
        ({"canaries": [{"prompt": "a", "unsafe": 1, "seed": 1}]}, r"canaries\[0\].unsafe: expected true or false, found 1"),
        ({"canaries": [{"prompt": "a", "unsafe": True, "seed": 2**64}]}, r"seed: expected an integer between .* found 1844"),
        (
            {"canaries": [{"prompt": "a", "unsafe": True, "seed": 1, "timestep": 1000}]},
            "timestep: expected .* 0 to 999, found 1000",
        ),
        ({"canaries": [{"prompt": "\ud800", "unsafe": True, "seed": 1}]}, "prompt: expected text in UTF-8"),
        ({"canaries": None}, "canaries: expected a list, found None"),
        ({"final_check": "false"}, "final_check: expected true or false, found 'false'"),
        ({"policy": {"threshold": 1}}, "threshold: expected a probability of at least 0 and below 1"),
        ({"policy": {"thresh": 0.5}}, "policy: expected only known fields, found 'thresh'"),
        ({"check": "later"}, "check: expected one of auto, before, beside, found 'later'"),
        ([], r"saferedir: expected an object, found \[\]"),
        ('{"check": "auto", "check": "before"}', "'check': expected once in an object, found twice"),
        ("{", "its metadata cannot be used"),
        ("[" * 100_000, "its metadata cannot be used"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_everything_else_is_one_error(tmp_path, content, message):
    text = content if isinstance(content, str) else json.dumps(content)
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "heads.safetensors", {KEY: text})
    with pytest.raises(InputError, match=message) as caught:
        read_metadata(tmp_path / "heads.safetensors")
    assert str(tmp_path / "heads.safetensors") in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content, message", [(None, "found no such file"), (b"garbage", "cannot be read as .safetensors weights")])
def test_files_that_are_no_checkpoint(tmp_path, content, message):
    if content is not None:
        (tmp_path / "heads.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=f"heads.safetensors: .*{message}"):
        read_metadata(tmp_path / "heads.safetensors")


@pytest.mark.parametrize("wrong", [{"final_check": 1}, {"check": None}, {"concept": 1}])
def test_values_of_other_types_are_refused(wrong):
    with pytest.raises(InputError, match=f"{next(iter(wrong))}: expected"):
        Metadata(**wrong)


def test_reading_imports_no_torch():
    program = "import sys, saferedir.metadata; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "False\n"
