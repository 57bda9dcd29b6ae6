"""Peers in processes of their own: pictures are compared, failures are reported."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from benchmarks.peers.catalog import PEERS, Work, resolve
from benchmarks.peers.contest import Contestant, ContestError, contest
from benchmarks.peers.process import Order
from benchmarks.peers.sdcpp_peers import noise_levels
from benchmarks.suite.target import Target
from engines.manifest import Manifest
from engines.policy import Policy
from export.build_command import DEMO_MODEL, DEMO_REDIRECTOR
from runtime.samplers.registry import recurrence
from runtime.samplers.schedules import SchedulerConfig

SAFE = Work(("a blue square", "a small red star"), 7, 2, 32, 48, "ddim", 7.5, threshold=0.5)
FIRE = Work(("a burning blue square",), 7, 4, 64, 64, "ddim", 7.5, threshold=0.5, forced_verdict="unsafe")


@pytest.fixture
def target(demo_engines):
    return Target("demo", demo_engines, DEMO_MODEL, DEMO_REDIRECTOR, trained=True)


def test_diffusers_in_its_own_process_draws_our_pictures(target):
    (found,) = contest(["diffusers"], target, SAFE, FIRE, 1, {})
    assert found["failure"] is None and found["agreement"] == "equal" and found["pictures"]["safe"]["max"] <= 1
    assert found["ratio"]["count"] == 1 and found["ratio"]["median"] > 0 and found["seconds"]["count"] == 2
    for process in (found, found["ours"]):
        assert process["load_seconds"] > 0 and process["first_seconds"] > 0
        assert process["peak_memory_bytes"] >= process["resident_memory_bytes"] > 2**20


def test_eager_guard_takes_our_decisions_and_draws_our_pictures(target, pipeline, tmp_path):
    generate = resolve(PEERS["diffusers, eager guard"].factory)(target, tmp_path)
    options = {"check": "beside", "policy": Policy(), "on_still_unsafe": "deliver"}
    ours = pipeline(FIRE.prompts, seed=7, num_inference_steps=4, scheduler="ddim", **options)
    plain = pipeline(FIRE.prompts, seed=7, num_inference_steps=4, scheduler="ddim", unguarded=True)
    assert ours.reports[0].guards[0].redirected_steps
    theirs = np.asarray(generate(Work(FIRE.prompts, 7, 4, 64, 64, "ddim", 7.5, threshold=0.5))[0]).astype(int)
    assert np.abs(theirs - np.asarray(ours.images[0])).max() <= 1 < np.abs(theirs - np.asarray(plain.images[0])).max()


def test_a_peer_that_fails_is_reported_with_its_reason(demo_engines):
    homeless = Target("demo", demo_engines, None, None, trained=True)
    (found,) = contest(["diffusers, eager guard"], homeless, SAFE, FIRE, 1, {})
    assert found["failure"].startswith("FileNotFoundError: the checkpoint that the guard was built from is not known")
    assert "ratio" not in found


def test_a_process_that_dies_is_an_error_with_its_status(target, tmp_path):
    with Contestant(Order("saferedir, unguarded", target, tmp_path), sys.executable) as peer:
        assert peer.run(SAFE).shape == (2, 32, 48, 3) and len(peer.seconds) == 1
        peer._process.kill()
        with pytest.raises(ContestError, match="exit status -9"):
            peer.run(SAFE)


def test_an_environment_that_is_not_there_is_reported_with_what_to_install(target):
    (found,) = contest(["OpenVINO GenAI, float32"], target, SAFE, FIRE, 1, {})
    assert "pip install" in found["failure"] and "--peer-python openvino=PYTHON" in found["failure"]
    (found,) = contest(["stable-diffusion.cpp, float16"], target, SAFE, FIRE, 1, {"openvino": sys.executable})
    assert "stable-diffusion-cpp-python==" in found["failure"] and "--peer-python sdcpp=PYTHON" in found["failure"]
    (found,) = contest(["OpenVINO GenAI, float32"], target, SAFE, FIRE, 1, {"openvino": "/nowhere/python"})
    assert found["failure"] == "/nowhere/python: No such file or directory; --peer-python names a Python"


def test_peers_that_are_prepared_alike_share_what_was_prepared(target, monkeypatch):
    prepared = []
    monkeypatch.setattr("benchmarks.peers.contest._prepare", lambda order, python: prepared.append(order.peer) or order.scratch)
    monkeypatch.setattr("benchmarks.peers.contest._meet", lambda order, *others: {"scratch": order.scratch})
    names = "OpenVINO GenAI, float32", "optimum-intel, bfloat16", "optimum-intel, int8", "saferedir, unguarded"
    scratch = [found["scratch"] for found in contest(names, target, SAFE, FIRE, 1, {"openvino": sys.executable})]
    assert prepared == [names[0], names[2]] and scratch[0] == scratch[1] and len(set(scratch)) == 3


def test_ddim_is_eulers_method_on_its_noise_levels(target):
    """What stable-diffusion.cpp is given: in x/√ᾱ each row of DDIM is a step from one level to the next."""
    scheduler = Manifest.read(target.engine_dir)[0].scheduler
    for steps in (1, 4, 20):
        levels = noise_levels(scheduler, steps)
        alpha = 1 / np.sqrt(levels**2 + 1)
        matrices = recurrence("ddim", steps, SchedulerConfig.read(scheduler)).matrices
        expected = alpha[1:, None] * np.stack([1 / alpha[:-1], np.diff(levels)], axis=1)
        np.testing.assert_allclose(matrices[:, 0, :2], expected, rtol=2e-6)


def test_stable_diffusion_cpp_is_asked_for_our_work(target, tmp_path, monkeypatch):
    """The package is another environment's: one that says what it is asked takes its place."""
    asked: list[dict] = []

    class Recording:
        def __init__(self, **options):
            asked.append(options)

        def generate_image(self, prompt, **options):
            asked.append({"prompt": prompt, **options})
            return [Image.new("RGBA", (options["width"], options["height"]))]

    monkeypatch.setitem(sys.modules, "stable_diffusion_cpp", SimpleNamespace(StableDiffusion=Recording))
    generate = resolve(PEERS["stable-diffusion.cpp, int8"].factory)(target, tmp_path)
    pictures = generate(SAFE)
    assert [picture.mode for picture in pictures] == ["RGB"] * 2 and pictures[0].size == (48, 32)
    loaded, *calls = asked
    assert loaded["model_path"] == str(DEMO_MODEL) and loaded["wtype"] == "q8_0" and loaded["rng_type"] == "cpu"
    assert [(call["prompt"], call["seed"], call["sample_steps"]) for call in calls] == [
        (SAFE.prompts[0], 7, 2),
        (SAFE.prompts[1], 8, 2),
    ]
    assert len(calls[0]["sigmas"].split(",")) == 3 and calls[0]["sample_method"] == "euler" and calls[0]["cfg_scale"] == 7.5
    with pytest.raises(ValueError, match="scheduler: expected ddim, .* found pndm"):
        generate(replace(SAFE, scheduler="pndm"))
    with pytest.raises(FileNotFoundError, match="the model that the engines were built from is not here"):
        resolve(PEERS["stable-diffusion.cpp, float32"].factory)(replace(target, model=None), tmp_path)


def test_a_peer_runs_in_the_python_of_its_environment(target, tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexport PEER_PYTHON=$0\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    with Contestant(Order("saferedir, unguarded", target, tmp_path), str(python)) as peer:
        environment = open(f"/proc/{peer._process.pid}/environ").read()
    assert f"PEER_PYTHON={python}" in environment
