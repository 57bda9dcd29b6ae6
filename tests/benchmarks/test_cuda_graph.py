"""The rival of the loop's graph, a graph of two steps replayed, computes the same; shown on the fake GPU."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from benchmarks.studies.step_graphs import RebindableEngine, StepGraphs
from benchmarks.studies.uniform_run import uniform_run
from engines.backends.registry import open_backend
from engines.errors import InputError
from engines.policy import Policy
from engines.store.engine_store import EngineStore
from runtime.loop import Loop
from runtime.samplers.registry import recurrence
from runtime.samplers.schedules import SchedulerConfig


def test_a_replayed_pair_of_steps_equals_the_whole_loop(plans, device, monkeypatch):
    runtime = device()
    store, backend = EngineStore(plans), open_backend("tensorrt-rtx")
    engines = store.load(["unet", "guard", "sampler_step"], backend)
    schedule = SchedulerConfig.read(store.manifest.scheduler)
    policy = Policy(threshold=0.0, replace_steps=1)
    draw = np.random.default_rng(0)
    noise, embeds = draw.standard_normal((1, 4, 16, 16), np.float32), draw.standard_normal((2, 77, 96), np.float32)
    shape, start = uniform_run(embeds, noise, recurrence("ddim", 6, schedule), 7.5, policy)
    whole = Loop(engines, backend, shape)
    monkeypatch.setattr(backend, "program", lambda steps: StepGraphs(backend.lanes, steps))
    engines = {name: RebindableEngine(engine) for name, engine in engines.items()}
    rival = Loop(engines, backend, shape)
    expected = whole.run(start)
    for _ in range(2):  # nothing of a run may remain in the next one
        launched = runtime.calls["cudaGraphLaunch"]
        found = rival.run(start)
        assert np.array_equal(found.p_unsafe, expected.p_unsafe) and runtime.calls["cudaGraphLaunch"] - launched == 3
        assert np.array_equal(found.latents, expected.latents) and np.array_equal(found.finite, expected.finite)
    assert (expected.p_unsafe == -1).any() and rival.execution.captures == 1
    with pytest.raises(InputError, match="expected an even number, found 5"):
        Loop(engines, backend, dataclasses.replace(shape, rows=5))
