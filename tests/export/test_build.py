"""The build: what it keeps, what it refuses, and that a failure costs nothing."""

from __future__ import annotations

import errno
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import tomllib
import torch
from diffusers import StableDiffusionPipeline

from engines.backends.registry import open_backend
from engines.errors import InputError, ParityError
from engines.manifest import Manifest
from engines.networks import GUARD_NETWORKS, NETWORKS
from engines.parity import LIMITS, compare
from engines.store import recorded_cases as recorded
from engines.store.atomic import sole_writer
from export.build import build
from export.build_command import DEMO_MODEL, DEMO_REDIRECTOR, options
from export.inputs import SUPPORTED
from export.previous import read_previous
from runtime import GuardedPipeline
from saferedir.checkpoint import load_redirector, save_redirector
from saferedir.cli import main, parse
from saferedir.guard import Concept, Guard
from saferedir.heads import Redirector, RedirectorConfig
from saferedir.inference.algebra import InferenceHeads

ROOT = Path(__file__).resolve().parent.parent.parent


def build_with(*arguments: str) -> list[str]:
    """Run the build in this process; the lines it reports."""
    lines: list[str] = []
    build(options(parse(["build", *arguments])), lines.append)
    return lines


def built_anew(lines: list[str]) -> list[str]:
    """The networks that a build's lines say were built, not kept."""
    return [line.split("]")[1].split()[0] for line in lines if line.startswith("[") and "kept" not in line]


@pytest.fixture
def folder(demo_engines, tmp_path):
    return shutil.copytree(demo_engines, tmp_path / "demo")


@pytest.fixture
def model(tmp_path):
    return shutil.copytree(DEMO_MODEL, tmp_path / "model")


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_manifest_says_what_was_built(demo_engines):
    manifest, _ = Manifest.read(demo_engines)
    assert [guard.concept for guard in manifest.guards] == ["fire"] and len(manifest.guards[0].digest) == 64
    assert (manifest.geometry.embed_dim, manifest.geometry.scale_factor, manifest.geometry.text_layers) == (96, 4, 3)
    assert set(manifest.parity) == set(NETWORKS)
    for network, outputs in manifest.parity.items():
        assert set(outputs) == {tensor.name for tensor in NETWORKS[network].outputs}
        assert all(figures["cosine"] > 0.9999 for figures in outputs.values())
    assert {"torch", "onnxruntime"} <= set(manifest.versions)


def test_second_run_changes_nothing_and_imports_no_torch(folder):
    before = (folder / "manifest.json").read_bytes()
    script = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); from saferedir.cli import main; "
        "status = main(['build', *sys.argv[1:]]); sys.exit(status or int('torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(ROOT), "--engine-dir", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing changed" in done.stdout
    assert (folder / "manifest.json").read_bytes() == before


def test_new_policy_rebuilds_no_network(folder):
    stamp = (folder / "unet" / "model.onnx").stat().st_ino, Manifest.read(folder)[0].files["unet/model.onnx"]
    lines = build_with("--engine-dir", str(folder), "--alpha-scale", "1.5")
    assert "guard" in lines[0] and sum("unchanged, kept" in line for line in lines) == len(NETWORKS) + 1
    assert Manifest.read(folder)[0].guards[0].policy.alpha_scale == 1.5
    assert stamp == ((folder / "unet" / "model.onnx").stat().st_ino, Manifest.read(folder)[0].files["unet/model.onnx"])


def test_engines_that_are_kept_were_compared_where_they_were_built(folder):
    edit(folder / "manifest.json", compared_on=dict.fromkeys(NETWORKS, "another processor"))
    (folder / "unet" / "model.onnx").unlink()
    lines = build_with("--engine-dir", str(folder))
    compared_on = Manifest.read(folder)[0].compared_on
    assert built_anew(lines) == ["unet"] and compared_on.pop("unet") == open_backend("onnxruntime").device
    assert {*compared_on.values()} == {"another processor"} and Manifest.read(folder)[0].parity_of == "engine"


def test_new_guard_rebuilds_its_networks_alone(folder, tmp_path):
    other = load_redirector(DEMO_REDIRECTOR)
    with torch.no_grad():
        other.pos_embed += 1
    save_redirector(other, tmp_path / "other.pt")
    lines = build_with("--engine-dir", str(folder), "--model", str(DEMO_MODEL), "--redirector", str(tmp_path / "other.pt"))
    assert "guard (redirector)" in lines[0]
    assert built_anew(lines) == [*GUARD_NETWORKS]
    assert Manifest.read(folder)[0].guards[0].concept == "other"


BASE = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "trained_betas": None,
}


@pytest.mark.parametrize(
    "indexed, config",
    [
        ("PNDMScheduler", {"_class_name": "PNDMScheduler", **BASE}),  # as in the first releases
        ("PNDMScheduler", {"_class_name": "DDIMScheduler", "clip_sample": True, "steps_offset": 0, **BASE}),
        ("DDIMScheduler", {"_class_name": "DDIMScheduler", "clip_sample": True, "steps_offset": 7, **BASE}),
        ("DDIMScheduler", {"_class_name": "FlaxDDIMScheduler", **BASE}),
        ("DDIMScheduler", {"_class_name": "LCMScheduler", "original_inference_steps": 50, "steps_offset": 1, **BASE}),
        ("LMSDiscreteScheduler", {"_class_name": "LMSDiscreteScheduler", "timestep_values": None, **BASE}),
    ],
)
def test_schedulers_give_the_picture_of_diffusers_pipeline(folder, model, indexed, config):
    edit(model / "model_index.json", scheduler=["diffusers", indexed])
    (model / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    lines = build_with(
        "--model", str(model), "--redirector", str(DEMO_REDIRECTOR), "--engine-dir", str(folder), "--concept", "fire"
    )
    assert sum("unchanged, kept" in line for line in lines) == len(NETWORKS) + 1
    prompt, steps, scale, seed = "a blue square on a grey background", 6, 3.0, 7
    with GuardedPipeline(folder) as ours:
        found = np.asarray(ours(prompt, seed=seed, num_inference_steps=steps, guidance_scale=scale, unguarded=True).images[0])
    with warnings.catch_warnings(action="ignore"):
        theirs = StableDiffusionPipeline.from_pretrained(model, torch_dtype=torch.float32, safety_checker=None)
    theirs.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(seed)
    expected = theirs(prompt, generator=generator, num_inference_steps=steps, guidance_scale=scale, output_type="np").images[0]
    assert np.abs(found - np.round(expected * 255)).max() <= 1


@pytest.mark.parametrize(
    "config, message",
    [
        (
            {"_class_name": "DPMSolverSDEScheduler"},
            "own scheduler .* a Brownian tree's; nearest: 'DPM.. SDE'; .* --scheduler ddim or",
        ),
        ({"_class_name": "DDIMScheduler", "thresholding": True}, "own scheduler .*thresholding.* --scheduler pndm or lms"),
        ({"_class_name": "DDIMScheduler", "steps_offset": 0}, "as in diffusers' pipeline, steps_offset 0 read as 1"),
    ],
)
def test_what_a_scheduler_lacks_is_said_before_anything_is_built(folder, model, config, message):
    edit(model / "model_index.json", scheduler=["diffusers", config["_class_name"]])
    (model / "scheduler" / "scheduler_config.json").write_text(json.dumps({**BASE, **config}))
    lines = build_with(
        "--model", str(model), "--redirector", str(DEMO_REDIRECTOR), "--engine-dir", str(folder), "--concept", "fire"
    )
    assert any(re.search(message, line) for line in lines[1:3])
    with GuardedPipeline(folder) as pipeline:
        pipeline("a blue square", num_inference_steps=2, scheduler="pndm")


def test_a_schedule_that_no_sampler_honours_stops_the_build(model, tmp_path):
    edit(model / "scheduler" / "scheduler_config.json", prediction_type="flow_prediction")
    with pytest.raises(InputError, match="scheduler_config.json: scheduler option prediction_type: expected"):
        build_with("--model", str(model), "--unguarded", "--engine-dir", str(tmp_path / "e"))
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda model: (model / "tokenizer" / "vocab.json").write_text("{"), "cannot be read as a CLIP tokenizer"),
        (lambda model: (model / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b""), "cannot be read as"),
        (lambda model: (model.parent / "guard.pt").write_bytes(b""), "guard.pt: cannot be read"),
    ],
)
def test_everything_is_read_before_anything_is_exported(model, tmp_path, monkeypatch, spoil, message):
    guard = shutil.copyfile(DEMO_REDIRECTOR, tmp_path / "guard.pt")
    save_redirector(load_redirector(DEMO_REDIRECTOR), guard)
    monkeypatch.setattr("export.build._build", lambda *job: pytest.fail("exported first"))
    spoil(model)
    with pytest.raises(InputError, match=message):
        build_with("--model", str(model), "--redirector", str(guard), "--engine-dir", str(tmp_path / "e"))


@pytest.mark.parametrize("version", ["4.30.0", "5.0.0", "5.1.0.dev0"])
def test_other_versions_of_transformers_are_said_first(tmp_path, monkeypatch, version):
    found = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version if name == "transformers" else found(name))
    with pytest.raises(InputError, match=f"transformers: expected >=4.48,<5, found {version}; install it with: "):
        build_with("--model", "no/such-model", "--unguarded", "--engine-dir", str(tmp_path / "e"))


def test_the_supported_versions_are_those_of_the_package():
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["export"]
    assert all(f"{name}{versions}" in packages for name, versions in SUPPORTED.items())


def test_a_damaged_file_is_built_again(folder):
    (folder / "guard" / "model.onnx").write_bytes(b"")
    lines = build_with("--engine-dir", str(folder))
    assert "guard (files missing or altered)" in lines[0]
    assert (folder / "guard" / "model.onnx").stat().st_size > 0


def test_failing_gate_names_the_output_and_leaves_the_engines(folder, tmp_path, monkeypatch):
    before = (folder / "manifest.json").read_bytes()
    run = recorded.run_once

    def off(engine, *rest):
        found = run(engine, *rest)
        return {**found, "p_unsafe": found["p_unsafe"] + np.float32(0.1)} if engine.spec.name == "guard" else found

    monkeypatch.setattr(recorded, "run_once", off)
    with pytest.raises(ParityError, match=r"guard.p_unsafe: expected PyTorch's values .* error 0.1"):
        build_with("--engine-dir", str(folder), "--force")
    assert (folder / "manifest.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo"]


def test_an_exported_guard_unlike_the_trained_one_is_refused(folder, monkeypatch):
    def other(guard, winograd):
        with torch.no_grad():
            heads = InferenceHeads(guard.concepts[0].heads)
            heads.shift[3].weight.neg_()
        return Guard(Concept(heads))

    monkeypatch.setattr(Guard, "for_inference", other)
    (folder / "guard" / "model.onnx").unlink()
    with pytest.raises(ParityError, match=r"guard\.next_embeds: expected PyTorch's values"):
        build_with("--engine-dir", str(folder))


@pytest.mark.parametrize(
    "found, message",
    [([1, np.nan], "the engine gave NaN"), ([3, 3], "gave 3.0 everywhere"), ([1, 2.1], "found cosine"), ([1], "expected shape")],
)
def test_gate(found, message):
    with pytest.raises(ParityError, match=f"unet.noise_pred: .*{message}"):
        compare("unet.noise_pred", np.array([1, 2], np.float32), np.array(found, np.float32), LIMITS["float32"], varies=True)


def test_guard_of_another_width(tmp_path):
    save_redirector(Redirector(RedirectorConfig(embed_dim=768, encoder_widths=(8, 8, 8))), tmp_path / "sd.safetensors")
    with pytest.raises(InputError, match="expected a checkpoint for prompt width 96 .* found 768"):
        build_with(
            "--model", str(DEMO_MODEL), "--redirector", str(tmp_path / "sd.safetensors"), "--engine-dir", str(tmp_path / "e")
        )
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize(
    "component, changes, message",
    [
        ("unet", {"in_channels": 9}, "in_channels: expected 4 .* found 9"),
        ("unet", {"addition_embed_type": "text_time"}, "addition_embed_type: expected None"),
        ("unet", {"cross_attention_dim": 768}, "cross_attention_dim: expected 96"),
        ("vae", {"latent_channels": 16}, "latent_channels: expected 4"),
        ("text_encoder", {"max_position_embeddings": 64}, "max_position_embeddings: expected 77"),
    ],
)
def test_models_of_another_family(model, tmp_path, component, changes, message):
    edit(model / component / "config.json", **changes)
    with pytest.raises(InputError, match=message):
        build_with("--model", str(model), "--unguarded", "--engine-dir", str(tmp_path / "e"))


@pytest.mark.parametrize(
    "file",
    ["unet/config.json", "unet/diffusion_pytorch_model.safetensors", "tokenizer/merges.txt", "scheduler/scheduler_config.json"],
)
def test_incomplete_models(model, tmp_path, file):
    (model / file).unlink()
    with pytest.raises(InputError, match="expected"):
        build_with("--model", str(model), "--unguarded", "--engine-dir", str(tmp_path / "e"))


def test_unreadable_weights(model, tmp_path):
    (model / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"garbage")
    with pytest.raises(InputError, match="diffusion_pytorch_model.safetensors: cannot be read as .safetensors weights"):
        build_with("--model", str(model), "--unguarded", "--engine-dir", str(tmp_path / "e"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_missing_libraries_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr("export.inputs.LIBRARIES", ("torch", "no-such-library"))
    with pytest.raises(InputError, match=r"no-such-library: expected.*pip install"):
        build_with("--engine-dir", str(tmp_path / "e"))


def test_foreign_folders_are_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="found 'thesis.txt' and no manifest"):
        build_with("--engine-dir", str(tmp_path))
    with pytest.raises(InputError, match="found a file; choose another --engine-dir"):
        build_with("--engine-dir", str(tmp_path / "thesis.txt"))
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", "[" * 100_000, '{"name": "web app", "icons": []}', '{"format": 3, "files": {}}', '{"files": {"a": "b"}}'],
    ids=lambda text: text[:20],
)
def test_manifests_of_others_are_left_alone(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    (tmp_path / "index.html").write_text("a web app")
    for force in ((), ("--force",)):
        with pytest.raises(InputError, match="found a manifest.json that is not of engines; choose another --engine-dir"):
            build_with("--engine-dir", str(tmp_path), *force)
    assert (tmp_path / "index.html").read_text() == "a web app"


@pytest.mark.parametrize("name", ["thesis.txt", "unet/notes.md", "plans/other/manifest.json", ".git/config"])
def test_engines_with_something_else_among_them_stay(folder, name):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("years of work")
    with pytest.raises(InputError, match=f"found '{name}', which the manifest does not list; choose another"):
        build_with("--engine-dir", str(folder), "--alpha-scale", "1.5")
    assert (folder / name).read_text() == "years of work"


def test_a_linked_folder_among_engines_is_something_else(folder, tmp_path):
    (tmp_path / "mine").mkdir()
    (folder / "mine").symlink_to(tmp_path / "mine")
    with pytest.raises(InputError, match="found 'mine', which the manifest does not list"):
        build_with("--engine-dir", str(folder), "--force")


@pytest.mark.parametrize("number", [1, 2, 99])
def test_engines_of_other_formats_are_ours(folder, number):
    edit(folder / "manifest.json", format=number)
    (folder / "empty").mkdir()
    assert read_previous(folder) is None
    (folder / "unet" / "model.onnx").unlink()
    assert read_previous(folder) is None


def test_a_model_is_never_written_into(model, tmp_path, monkeypatch, capsys):
    before = {path: path.stat().st_mtime_ns for path in model.rglob("*")}
    (tmp_path / "link").symlink_to(model)
    monkeypatch.chdir(model)
    monkeypatch.delenv("SAFEREDIR_HOME", raising=False)
    for given, relation in (
        ([], "inside"),
        (["--engine-dir", "."], "itself"),
        (["--engine-dir", ".."], "around"),
        (["--engine-dir", "unet"], "inside"),
        (["--engine-dir", str(tmp_path / "link" / "new")], "inside"),
    ):
        for name in (".", str(tmp_path / "link")):
            assert main(["build", "--model", name, "--unguarded", *given]) == 2
            error = capsys.readouterr().err
            assert "expected a folder apart from the model's" in error and relation in error and error.count("\n") == 1
    assert before == {path: path.stat().st_mtime_ns for path in model.rglob("*")}


def test_a_linked_engine_folder_stays_linked(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    build_with("--engine-dir", str(tmp_path / "link"), "--alpha-scale", "1.5")
    assert (tmp_path / "link").is_symlink() and Manifest.read(folder)[0].guards[0].policy.alpha_scale == 1.5


def test_two_builds_at_once(folder, tmp_path):
    lines: list[str] = []
    request = options(parse(["build", "--engine-dir", str(folder), "--alpha-scale", "1.5"]))
    waiting = threading.Event()
    second = threading.Thread(target=build, args=(request, lambda line: (lines.append(line), waiting.set())))
    with sole_writer(folder, print):
        second.start()
        assert waiting.wait(30) and len(lines) == 1 and "another process is writing it" in lines[0]
        assert Manifest.read(folder)[0].guards[0].policy.alpha_scale != 1.5
    second.join(30)
    assert "built in" in lines[-1] and Manifest.read(folder)[0].guards[0].policy.alpha_scale == 1.5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo"]


def test_a_build_that_was_killed_is_mended(folder, tmp_path):
    retired = folder.with_name(f".demo.{'0' * 16}.saferedir-old")
    folder.rename(retired)
    folder.with_name(f".demo.{'1' * 16}.saferedir-new").mkdir()
    lines = build_with("--engine-dir", str(folder), "--alpha-scale", "1.5")
    assert sum("unchanged, kept" in line for line in lines) == len(NETWORKS) + 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo"]


def test_a_disk_that_fills_up(folder, tmp_path, monkeypatch, capsys):
    def full(path, cases):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("export.build_network.save_cases", full)
    (folder / "token_mask" / "model.onnx").write_bytes(b"")
    assert main(["build", "--engine-dir", str(folder)]) == 2
    assert capsys.readouterr().err == f"error: {folder}: No space left on device\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--model", "no/such-model-anywhere", "--unguarded"], "no/such-model-anywhere.*(downloaded|cache)"),
        (["--model", "./nowhere", "--unguarded"], "no such folder or file, and not a hub id"),
        (["--model", "x"], "--redirector: expected a SafeRedir checkpoint"),
        (["--unguarded", "--redirector", "x.pt"], "found both"),
        (["--redirector", "nowhere.pt"], "nowhere.pt: expected a SafeRedir checkpoint, found no such file"),
        (["--threshold", "7"], "threshold: expected a probability"),
    ],
)
def test_command_ends_with_one_line_and_status_2(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert main(["build", *arguments, "--engine-dir", str(tmp_path / "e")]) == 2
    captured = capsys.readouterr().err
    assert re.search(message, captured) and captured.count("\n") == 1 and "Traceback" not in captured


def test_a_rebuild_drops_the_signature_and_says_so(folder):
    (folder / "model.sig").write_text("{}")
    assert not any("signature" in line for line in build_with("--engine-dir", str(folder)))
    assert (folder / "model.sig").is_file()
    assert "signature of the previous engines was dropped" in build_with("--engine-dir", str(folder), "--threshold", "0.4")[-1]
    assert not (folder / "model.sig").exists()
