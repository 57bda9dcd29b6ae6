"""What is not exactly what was built is not loaded."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil

import numpy as np
import onnx
import pytest

from engines.errors import BackendError, DigestError, InputError, ManifestError
from engines.manifest import Manifest
from engines.networks import NETWORKS, with_derived
from engines.store import digests
from engines.store import engine_store as store_module
from engines.store.engine_store import EngineStore
from runtime import GuardedPipeline


@pytest.fixture
def folder(demo_engines, tmp_path):
    return shutil.copytree(demo_engines, tmp_path / "demo")


def edit(folder, change):
    path = folder / "manifest.json"
    parsed = json.loads(path.read_text())
    change(parsed)
    path.write_text(json.dumps(parsed))


@pytest.mark.parametrize("network", [*NETWORKS, "tokenizer"])
def test_altered_and_missing_files(folder, network):
    path = next(path for path in (folder / network).iterdir() if path.name != "parity.npz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DigestError, match=f"{path.name}: altered: expected SHA-256 .* rebuild with: saferedir build"):
        GuardedPipeline(folder)
    path.write_bytes(content + b"x")
    with pytest.raises(DigestError, match="altered: expected .* bytes"):
        GuardedPipeline(folder)
    path.unlink()
    with pytest.raises(DigestError, match="missing"):
        GuardedPipeline(folder)


def test_another_guard_is_not_taken(folder):
    shutil.copyfile(folder / "sampler_step" / "model.onnx", folder / "guard" / "model.onnx")
    with pytest.raises(DigestError, match="guard"):
        GuardedPipeline(folder)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda parsed: parsed.update(guards=[]), "expected engines with a guard"),
        (lambda parsed: parsed.update(format=99), "expected format 4, found 99"),
        (lambda parsed: parsed.pop("scheduler"), "not a valid manifest"),
        (lambda parsed: parsed.update(surprise=1), "not a valid manifest"),
        (lambda parsed: parsed["guards"][0]["policy"].update(threshold=2), "threshold"),
        (
            lambda parsed: parsed["files"].pop("guard/model.onnx"),
            "expected guard/model.onnx in the manifest, found guard/parity",
        ),
        (
            lambda parsed: parsed["files"].update({"unet/../../model.onnx": {"sha256": "0" * 64, "size": 0}}),
            "names inside the folder, found",
        ),
        (lambda parsed: parsed.update(backend="abacus"), "expected one of onnxruntime"),
    ],
)
def test_altered_manifests(folder, change, message):
    edit(folder, change)
    with pytest.raises((ManifestError, BackendError), match=message):
        GuardedPipeline(folder)


@pytest.mark.parametrize("content", ["", "[]", "{", '"x"', "\xff"])
def test_broken_manifests(folder, content):
    (folder / "manifest.json").write_text(content, encoding="latin-1")
    with pytest.raises(ManifestError, match="manifest"):
        EngineStore(folder)


def test_no_engines(tmp_path):
    with pytest.raises(ManifestError, match="no engines here .* saferedir build"):
        EngineStore(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "name",
    [
        "../model.onnx",
        "/etc/passwd",
        "unet/../../x",
        "./unet/model.onnx",
        "unet//model.onnx",
        "unet/",
        "",
        "a\\b",
        "a\nb",
        "manifest.json",
    ],
)
def test_names_that_a_manifest_may_not_list(folder, name):
    edit(folder, lambda parsed: parsed["files"].update({name: {"sha256": "0" * 64, "size": 0}}))
    with pytest.raises(ManifestError, match="names inside the folder, found"):
        EngineStore(folder)


def test_a_deep_manifest(folder):
    (folder / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(ManifestError, match="not a valid manifest"):
        EngineStore(folder)


class Swapping:
    """A backend under whose hands files are swapped, right before it loads one."""

    def __init__(self, backend, swap):
        self._backend, self._swap, self.device = backend, swap, backend.device

    def load(self, path, spec, contents=None):
        self._swap(path)
        return self._backend.load(path, spec, contents)


@pytest.mark.parametrize("network", ["guard", "token_mask", "sampler_step", "unet"])
def test_what_was_hashed_is_what_is_loaded(folder, backend, network):
    """Another network's file takes its place after it was verified: what is loaded is what was verified."""

    def swap(path):
        other = "guard" if path.parent.name != "guard" else "sampler_step"
        path.unlink()
        shutil.copyfile(folder / other / "model.onnx", path)

    assert EngineStore(folder).load([network], Swapping(backend, swap))[network].spec.name == network
    with pytest.raises(DigestError, match="altered"):
        EngineStore(folder).load([network], backend)


def test_tokenizer_and_cases_are_read_once(folder, monkeypatch):
    opened, paths = EngineStore(folder), []
    monkeypatch.setattr(store_module, "open_regular", lambda path: paths.append(path) or digests.open_regular(path))
    assert opened.read("tokenizer/tokenizer.json") == (folder / "tokenizer" / "tokenizer.json").read_bytes()
    assert opened.cases("guard")
    assert [path.name for path in paths] == ["tokenizer.json", "parity.npz"]


def test_a_fifo_is_not_waited_for(folder):
    (folder / "guard" / "model.onnx").unlink()
    os.mkfifo(folder / "guard" / "model.onnx")
    with pytest.raises(DigestError, match="missing, though the manifest lists it"):
        GuardedPipeline(folder)


def test_weights_that_are_not_listed_are_refused(folder, demo_engines, backend):
    """An ONNX file, listed as it is, that takes its weights from a file beside it."""
    path = folder / "guard" / "model.onnx"
    for location in ("weights.bin", "model.onnx.data", "../unet/model.onnx", "/etc/passwd"):
        model = onnx.load(demo_engines / "guard" / "model.onnx")
        onnx.external_data_helper.convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                entry.value = location if entry.key == "location" else entry.value
        content = model.SerializeToString()
        path.write_bytes(content)
        record = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        edit(folder, lambda parsed: parsed["files"].update({"guard/model.onnx": record}))  # noqa: B023
        with pytest.raises(ManifestError, match=re.escape(f"expected weights in listed files, found 'guard/{location}'")):
            EngineStore(folder).load(["guard"], backend)


def test_engines_that_a_killed_build_had_moved_aside_are_found(folder):
    folder.rename(folder.with_name(f".demo.{'0' * 16}.saferedir-old"))
    assert EngineStore(folder).manifest.guards and [path.name for path in folder.parent.iterdir()] == ["demo"]


def test_a_clipping_scheduler_is_refused_by_the_sampler_that_would_clip(folder):
    edit(folder, lambda parsed: parsed["scheduler"].update(clip_sample=True))
    with GuardedPipeline(folder) as pipeline:
        with pytest.raises(InputError, match="clip_sample: expected False, found True; choose .* --scheduler pndm or lms"):
            pipeline("a blue square", num_inference_steps=2)
        pipeline("a blue square", num_inference_steps=2, scheduler="lms")


def test_manifest_round_trip(folder, tmp_path):
    manifest, digest = Manifest.read(folder)
    (tmp_path / "copy").mkdir()
    manifest.write(tmp_path / "copy")
    assert Manifest.read(tmp_path / "copy") == (manifest, digest)


@pytest.fixture
def sampler_step(demo_engines, backend):
    return EngineStore(demo_engines).load(["sampler_step"], backend)["sampler_step"], backend


def arrays(backend, **changed):
    sizes = with_derived({"B": 1, "C": 2, "H": 4, "W": 4, "S": 1})
    return {tensor.name: backend.zeros(tensor.shape(sizes), tensor.dtype) for tensor in NETWORKS["sampler_step"].tensors} | changed


def test_bound_arrays_are_read_and_written_in_place(sampler_step):
    engine, backend = sampler_step
    bound = arrays(backend)
    call = engine.bind(**bound)
    bound["matrix"][:] = [[[2, 3, 0], [1, 1.5, 0]]]
    for value in (1.0, 4.0):
        bound["state"][...], bound["noise_pred"][...] = value, value
        call()
        assert np.all(bound["next_state"] == 5 * value) and np.all(bound["next_model_input"] == 2.5 * value)
        assert np.all(bound["finite"])


@pytest.mark.parametrize(
    "changed, error, message",
    [
        ({"noise": np.zeros((1, 4, 4, 4))}, InputError, r"sampler_step.noise: expected float32 \[B, 4, H, W\], found float64"),
        ({"noise": np.zeros((1, 3, 4, 4), np.float32)}, InputError, r"found float32 \[1, 3, 4, 4\]"),
        ({"noise": np.zeros((1, 4, 4, 8), np.float32)[..., ::2]}, BackendError, "C-contiguous"),
        ({"extra": np.zeros(1)}, BackendError, "expected tensors"),
    ],
    ids=str,
)
def test_wrong_arrays(sampler_step, changed, error, message):
    engine, backend = sampler_step
    with pytest.raises(error, match=message):
        engine.bind(**arrays(backend, **changed))


def test_sizes_that_do_not_fit_each_other_fail(sampler_step):
    engine, backend = sampler_step
    for changed in ({"noise": (1, 4, 3, 4)}, {"next_state": (1, 1, 4, 3, 4)}, {"next_model_input": (2, 4, 4, 4)}):
        with pytest.raises(BackendError, match="sampler_step: (ONNX Runtime failed|OpenVINO cannot compile)"):
            engine.bind(**arrays(backend, **{name: np.zeros(shape, np.float32) for name, shape in changed.items()}))()


def test_files_of_another_network_are_refused(demo_engines, backend):
    with pytest.raises(BackendError, match="expected tensors"):
        backend.load(demo_engines / "unet" / "model.onnx", NETWORKS["guard"])
    with pytest.raises(BackendError, match="cannot load"):
        backend.load(demo_engines / "manifest.json", NETWORKS["guard"])


def test_a_call_outlives_others_of_its_engine(sampler_step):
    engine, backend = sampler_step
    bound = arrays(backend)
    call = engine.bind(**bound)
    bound["matrix"][:] = [[[2, 3, 0], [1, 1.5, 0]]]
    bound["state"][...], bound["noise_pred"][...] = 1, 1
    for height in range(5, 12):
        sizes = with_derived({"B": 1, "C": 2, "H": height, "W": 4, "S": 1})
        engine.bind(**{tensor.name: backend.zeros(tensor.shape(sizes), tensor.dtype) for tensor in engine.spec.tensors})()
    call()
    assert np.all(bound["next_state"] == 5)
