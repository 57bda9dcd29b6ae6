"""Checkpoints are matched strictly by name and shape; everything wrong is in one error."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch

from saferedir.checkpoint import CheckpointError, load_redirector, save_redirector
from saferedir.heads import Redirector, RedirectorConfig
from tests.conformance_cases import FOLDER

SMALL = RedirectorConfig(
    embed_dim=32,
    encoder_widths=(8, 16, 24),
    latent_features=40,
    timestep_frequencies=12,
    timestep_features=20,
    classifier_width=28,
    shift_width=36,
    rank=3,
    mask_width=44,
    alpha_width=52,
)


def test_default_names_and_shapes_are_those_of_a_published_checkpoint():
    published = {name: tuple(shape) for name, shape in json.loads((FOLDER / "checkpoint_manifest.json").read_text()).items()}
    assert {name: tuple(tensor.shape) for name, tensor in Redirector().state_dict().items()} == published
    assert sum(parameter.numel() for parameter in Redirector().parameters()) == 14_573_574


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("config", [SMALL, RedirectorConfig(embed_dim=1024)], ids=["small", "1024"])
def test_round_trip_finds_every_width(tmp_path, suffix, config):
    model, path = Redirector(config), tmp_path / f"heads{suffix}"
    save_redirector(model, path)
    loaded = load_redirector(path)
    assert loaded.config == config and not loaded.training
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_one_error_lists_missing_extra_and_misshaped(tmp_path):
    state = Redirector(SMALL).state_dict()
    del state["gate_linear.bias"]
    state["surprise"] = torch.zeros(3)
    state["classifier.3.weight"] = torch.zeros(5, 28)
    torch.save(state, tmp_path / "heads.pt")
    with pytest.raises(CheckpointError) as caught:
        load_redirector(tmp_path / "heads.pt")
    for part in ("missing gate_linear.bias [1]", "unexpected surprise [3]", "classifier.3.weight: expected [2, 28], found [5, 28]"):
        assert part in str(caught.value)


def test_nan_weights_are_refused(tmp_path):
    state = Redirector(SMALL).state_dict()
    state["pos_embed"][0, 0, 0] = torch.nan
    safetensors.torch.save_file(state, tmp_path / "heads.safetensors")
    with pytest.raises(CheckpointError, match="pos_embed: holds NaN"):
        load_redirector(tmp_path / "heads.safetensors")


class _Payload:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "no such file"),
        (b"garbage", "cannot be read"),
        ({"a": 1}, "expected a state dict"),
        ([torch.zeros(1)], "expected a state dict"),
        ({"a": _Payload()}, "cannot be read"),
    ],
    ids=str,
)
def test_other_files_are_refused(tmp_path, content, message, capsys):
    path = tmp_path / "heads.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=message):
        load_redirector(path)
    assert "executed" not in capsys.readouterr().out


def test_unknown_suffix_is_refused(tmp_path):
    (tmp_path / "heads.onnx").write_bytes(b"")
    with pytest.raises(CheckpointError, match="expected a file ending in"):
        load_redirector(tmp_path / "heads.onnx")
