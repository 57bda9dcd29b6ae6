"""Inputs of networks recorded in whole runs."""

from __future__ import annotations

import numpy as np

from engines.networks import NETWORKS
from runtime.recording import record_inputs

SETTINGS = {"side": 32, "num_inference_steps": 4, "first_seed": 5, "every": 2}


def test_unguarded_and_redirected_runs_are_recorded(demo_engines):
    found = record_inputs(demo_engines, ["unet", "vae_decoder"], ["a blue square", "a red star"], **SETTINGS)
    assert [call["latent"].shape for call in found["vae_decoder"]] == [(1, 4, 8, 8)] * 4  # one of each run
    calls = found["unet"]
    assert len(calls) == 2 * 2 * 2  # prompts, guarded or not, every second of four
    assert all({*call} == {tensor.name for tensor in NETWORKS["unet"].inputs} for call in calls)
    assert {call["sample"].shape for call in calls} == {(1, 4, 8, 8)} and {call["timestep"].shape for call in calls} == {(1,)}
    assert {call["encoder_hidden_states"].shape[0] for call in calls} == {2}
    unguarded, redirected = calls[:2], calls[2:4]
    assert np.array_equal(unguarded[0]["sample"], redirected[0]["sample"])  # the same noise
    for before, after in zip(unguarded, redirected, strict=True):
        assert np.array_equal(before["timestep"], after["timestep"])
        assert not np.allclose(before["encoder_hidden_states"], after["encoder_hidden_states"])
    assert unguarded[0]["timestep"][0] > unguarded[1]["timestep"][0]


def test_the_same_runs_give_the_same_inputs(demo_engines):
    one, other = (record_inputs(demo_engines, ["unet"], ["a blue square"], **SETTINGS)["unet"] for _ in range(2))
    assert all(np.array_equal(a[name], b[name]) for a, b in zip(one, other, strict=True) for name in a)
