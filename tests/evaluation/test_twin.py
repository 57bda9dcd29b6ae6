"""The twin computes what the engines do, or is refused: networks, whole guarded runs, and the files that it is made from."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from engines.errors import DigestError, InputError, ManifestError, ParityError
from engines.geometry import Geometry
from engines.manifest import Manifest
from engines.networks import NOT_CHECKED
from engines.policy import Policy
from engines.records import SourceRecord
from engines.store.engine_store import EngineStore
from evaluation.rebuilt_twin import COMPARED, check_twin, rebuild_twin
from evaluation.sampling import RunOptions, sample
from evaluation.twin import Rows, Twin
from export.build import build
from export.build_command import DEMO_REDIRECTOR, options
from saferedir.cli import parse
from tests.evaluation.tiny_twin import tiny_twin

FIRE, PLAIN = "a burning blue square", "a small red star"


@pytest.fixture(scope="module")
def twin(demo_engines) -> Twin:
    return rebuild_twin(EngineStore(demo_engines))


@pytest.mark.parametrize(
    ("scheduler", "check", "steps", "negative"),
    [("ddim", "beside", 12, ""), ("Euler a", "before", 6, "a blue square"), (None, None, 8, "")],
)
def test_draws_what_the_engines_draw(twin, pipeline, scheduler, check, steps, negative):
    run = RunOptions(num_inference_steps=steps, guidance_scale=5.0, scheduler=scheduler, check=check)
    given = {**dataclasses.asdict(run), "negative_prompt": negative, "seed": [3, 9], "on_still_unsafe": "deliver"}
    embeds, without = twin.embeds([FIRE, PLAIN]), twin.embeds([negative] * 2)
    for guarded in (True, False):
        found = sample(twin, embeds, [3, 9], run, without, guarded)
        expected = pipeline([FIRE, PLAIN], unguarded=not guarded, **given)
        pictures = np.stack([np.asarray(image, np.int16) for image in expected.images])
        assert np.abs(twin.pictures(found.final) - pictures).max() <= 1
        assert len(found.latents) == len(found.timesteps) + 1
        if guarded:
            reports = [report.guards[0] for report in expected.reports]
            p_unsafe = [[NOT_CHECKED if p is None else p for p in report.p_unsafe] for report in reports]
            np.testing.assert_allclose(found.p_unsafe[:, 0].T, p_unsafe, atol=1e-3)
            assert found.withheld.tolist() == [report.still_unsafe for report in reports]
            assert reports[0].unsafe_steps and not reports[1].unsafe_steps


def test_margins_are_the_guards_decisions():
    twin, draw = tiny_twin(2), torch.Generator().manual_seed(0)
    latents = torch.randn(5, 4, 8, 8, generator=draw)
    rows = Rows(latents, latents, torch.linspace(0, 999, 5))
    embeds = twin.embeds([FIRE, PLAIN, "a star"])
    margins = twin.margins(twin.joints(rows), embeds)
    assert margins.shape == (2, 3, 5)
    shifts, inputs = torch.zeros(2, 5, 77, twin.geometry.embed_dim), twin.guard_inputs(5, branches=1)
    for place, prompt in enumerate(embeds):
        repeated = prompt.expand(5, -1, -1)
        next_embeds, _, _, p_unsafe, unsafe = twin.guard(rows.latents, rows.timesteps, repeated, shifts, **inputs)
        torch.testing.assert_close(torch.sigmoid(margins[:, place] + torch.logit(torch.tensor(0.3))), p_unsafe)
        assert torch.equal(margins[:, place] > 0, unsafe)
        assert torch.equal(twin.redirected(rows, repeated), next_embeds)
    assert unsafe.any()


def test_rows_hold_what_guard_and_unet_read():
    """In sigma space the UNet's input is the latents scaled by 1/sqrt(sigma² + 1)."""
    twin = tiny_twin()
    run = sample(twin, twin.embeds([FIRE]), [3], RunOptions(num_inference_steps=4, scheduler="euler"), guarded=False)
    rows = run.rows(3)
    assert rows.timesteps.tolist() == run.timesteps[[0, 2, 3]].tolist()
    assert torch.equal(rows.latents, run.latents[[0, 2, 3], 0]) and torch.equal(rows.inputs, run.inputs[[0, 2, 3], 0])
    assert rows.latents[0].std() > 3 and rows.inputs[0].std() == pytest.approx(1, rel=0.2)
    assert len(run.rows(99).timesteps) == 4
    ddim = sample(twin, twin.embeds([FIRE]), [3], RunOptions(num_inference_steps=4), guarded=False)
    torch.testing.assert_close(ddim.inputs, ddim.latents[:-1])


@pytest.mark.parametrize("threshold, final_threshold", [(0.9999, 0.0), (0.0, 0.9999)])
def test_the_final_check_has_a_threshold_of_its_own(threshold, final_threshold):
    policy = Policy(threshold=threshold, final_threshold=final_threshold)
    twin = dataclasses.replace(tiny_twin(), policies=[policy])
    run = sample(twin, twin.embeds([FIRE]), [3], RunOptions(num_inference_steps=4))
    assert run.withheld.tolist() == [final_threshold == 0] and (run.p_unsafe > threshold).any() == (threshold == 0)


def test_what_no_twin_is_made_of():
    twin = tiny_twin()
    with pytest.raises(InputError, match="policies: expected 1"):
        dataclasses.replace(twin, policies=[])
    with pytest.raises(InputError, match="distilled with its guidance"):
        dataclasses.replace(twin, geometry=Geometry(64, 8, 64, 64, 2, time_cond_proj_dim=256))
    with pytest.raises(InputError, match="guidance_scale: expected more than 1"):
        RunOptions(guidance_scale=1.0)
    with pytest.raises(InputError, match="check: expected one of"):
        RunOptions(check="after")


def altered(tmp_path: Path) -> Path:
    """The demo's checkpoint with another classifier."""
    with safetensors.torch.safe_open(DEMO_REDIRECTOR, "pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    tensors["classifier.3.bias"] = tensors["classifier.3.bias"] + torch.tensor([3.0, 0.0])
    safetensors.torch.save_file(tensors, tmp_path / "fire.safetensors", metadata)
    return tmp_path / "fire.safetensors"


def with_manifest(demo_engines: Path, tmp_path: Path, **changes) -> EngineStore:
    """A copy of the demo's engines that says otherwise what it was built from."""
    folder = shutil.copytree(demo_engines, tmp_path / "engines")
    dataclasses.replace(Manifest.read(folder)[0], **changes).write(folder)
    return EngineStore(folder)


def test_an_altered_checkpoint_is_refused(demo_engines, tmp_path):
    command = f"saferedir build --redirector {altered(tmp_path)} --concept fire --model demo/model"
    with pytest.raises(DigestError, match=r"expected the files that the engines were built from, found others: redirector/fire"):
        rebuild_twin(with_manifest(demo_engines, tmp_path, command=command))


def test_what_computes_otherwise_is_refused_whatever_the_manifest_says(demo_engines, tmp_path):
    checkpoint, manifest = altered(tmp_path), Manifest.read(demo_engines)[0]
    sources = manifest.sources | {"redirector/fire": SourceRecord.of(checkpoint)}
    command = f"saferedir build --redirector {checkpoint} --concept fire --model demo/model"
    store = with_manifest(demo_engines, tmp_path, command=command, sources=sources)
    with pytest.raises(ParityError, match=r"twin of guard\.p_unsafe"):
        rebuild_twin(store)


@pytest.mark.parametrize("command", ["", "saferedir inspect here", "saferedir build 'unclosed"])
def test_engines_that_do_not_say_how_they_were_built(demo_engines, tmp_path, command):
    with pytest.raises(ManifestError, match="command: expected that of saferedir build"):
        rebuild_twin(with_manifest(demo_engines, tmp_path, command=command))


def test_engines_without_a_guard(demo_engines, tmp_path):
    with pytest.raises(ManifestError, match="expected engines with a guard"):
        rebuild_twin(with_manifest(demo_engines, tmp_path, guards=[]))


def test_a_lora_is_part_of_the_twin(demo_engines, tmp_path):
    folder = shutil.copytree(demo_engines, tmp_path / "engines")
    layer, draw = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_v", torch.Generator().manual_seed(0)
    down, up = torch.randn(4, 96, generator=draw), torch.randn(96, 4, generator=draw)
    safetensors.torch.save_file({f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up}, tmp_path / "style.safetensors")
    build(options(parse(["build", "--engine-dir", str(folder), "--lora", f"{tmp_path / 'style.safetensors'}:0.8"])))
    store = EngineStore(folder)
    twin = rebuild_twin(store)
    with pytest.raises(ParityError, match=r"twin of unet\.noise_pred"):
        check_twin(store, {"unet": rebuild_twin(EngineStore(demo_engines)).unet})
    figures = check_twin(store, {name: getattr(twin, name) for name in COMPARED})
    assert figures.keys() == {*COMPARED} and json.dumps(figures)


def test_networks_compute_where_their_weights_are():
    """On PyTorch's meta device, which refuses what is on another, as a GPU does."""
    twin = tiny_twin.__wrapped__()
    for module in (twin.text_encoder, twin.unet, twin.vae_decoder, twin.guard):
        module.to("meta")
    latents = torch.zeros(2, 4, *twin.latent_size, device="meta")
    rows, embeds = Rows(latents, latents, torch.ones(2, device="meta")), twin.embeds(["a star", "a burning star"])
    drawn = twin.unet(rows.inputs, rows.timesteps, twin.redirected(rows, embeds))
    assert drawn.shape == latents.shape and len(twin.vae_decoder(drawn)[0]) == 2
    assert twin.margins(twin.joints(rows), embeds).shape == (1, 2, 2)
