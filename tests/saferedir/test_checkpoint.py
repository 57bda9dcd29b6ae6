"""Checkpoints are matched strictly by name and shape; everything wrong is in one error."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch

from saferedir.checkpoint import CheckpointError, load_redirector, save_redirector
from saferedir.heads import Redirector, RedirectorConfig
from tests.conformance_cases import FOLDER
from tests.random_heads import SMALL


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


def saved(path, change) -> None:
    """A checkpoint whose tensors are changed: name, tensor → tensor."""
    torch.manual_seed(0)
    torch.save({name: change(name, tensor) for name, tensor in Redirector(SMALL).state_dict().items()}, path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floating_tensors_of_any_width_are_taken(tmp_path, dtype):
    saved(tmp_path / "heads.pt", lambda name, tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)
    loaded = load_redirector(tmp_path / "heads.pt").state_dict()
    torch.manual_seed(0)
    for name, tensor in Redirector(SMALL).state_dict().items():
        assert loaded[name].dtype == tensor.dtype and torch.equal(loaded[name], tensor.to(dtype).to(tensor.dtype))


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.uint8])
def test_other_dtypes_are_refused(tmp_path, dtype):
    saved(tmp_path / "heads.pt", lambda name, tensor: tensor.to(dtype))
    with pytest.raises(CheckpointError, match=f"expected float16, bfloat16, float32, float64, found {str(dtype)[6:]};.* more$"):
        load_redirector(tmp_path / "heads.pt")


def test_values_that_float32_cannot_hold_are_refused(tmp_path):
    saved(tmp_path / "heads.pt", lambda name, tensor: tensor.double() + 1e300 if name == "pos_embed" else tensor)
    with pytest.raises(CheckpointError, match="pos_embed: holds NaN, infinity or what float32 cannot hold"):
        load_redirector(tmp_path / "heads.pt")


@pytest.mark.parametrize(
    "dead, message",
    [
        ("", "logits: expected values that follow the input, found the same"),
        ("classifier.3.weight", "logits: expected values that follow the input, found the same"),
        ("delta_head.up", "shift: expected values that follow the input, found the same"),
        ("mask_predictor.predictor.3", None),  # a mask of one half everywhere still redirects
    ],
)
def test_heads_must_follow_their_input(tmp_path, dead, message):
    saved(tmp_path / "heads.pt", lambda name, tensor: tensor * 0 if name.startswith(dead) else tensor)
    if message is None:
        load_redirector(tmp_path / "heads.pt")
        return
    with pytest.raises(CheckpointError, match=message):
        load_redirector(tmp_path / "heads.pt")


def test_heads_that_give_nan_are_refused(tmp_path):
    saved(tmp_path / "heads.pt", lambda name, tensor: tensor - 2 if name.endswith("running_var") else tensor)
    with pytest.raises(CheckpointError, match="logits: expected finite values"):
        load_redirector(tmp_path / "heads.pt")


@pytest.mark.parametrize("seed", range(20))
def test_any_state_dict_loads_or_is_one_line(tmp_path, seed):
    """Random shapes, dtypes, layouts and names in place of some tensors."""
    draw = torch.Generator().manual_seed(seed)

    def pick(count: int) -> int:
        return int(torch.randint(count, (), generator=draw))

    def change(name, tensor):
        if pick(12):
            return tensor
        dims = [pick(40) for _ in range(pick(4))]
        kinds = (
            lambda: torch.zeros(dims),
            lambda: torch.zeros(1).expand(1 << 20, 1 << 20),
            lambda: torch.zeros(3, 3).to_sparse(),
            lambda: torch.zeros(tensor.shape, dtype=torch.complex64),
            lambda: torch.full(tensor.shape, 1e300, dtype=torch.float64),
        )
        return kinds[pick(len(kinds))]()

    saved(tmp_path / "heads.pt", change)
    try:
        load_redirector(tmp_path / "heads.pt")
    except CheckpointError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000


def test_advice_of_libraries_is_not_passed_on(tmp_path):
    torch.save(Redirector(SMALL), tmp_path / "whole.pt")
    with pytest.raises(CheckpointError, match=r"save the state dict alone: torch\.save\(model\.state_dict") as caught:
        load_redirector(tmp_path / "whole.pt")
    assert "weights_only" not in str(caught.value)


def test_a_git_lfs_pointer_is_named(tmp_path):
    (tmp_path / "heads.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    with pytest.raises(CheckpointError, match="Git LFS pointer to it; fetch it with: git lfs pull"):
        load_redirector(tmp_path / "heads.pt")


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
