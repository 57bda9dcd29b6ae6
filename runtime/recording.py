"""Records what networks are given in whole runs, guarded and not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from engines.backends.contract import Array, Engine
from engines.manifest import Manifest
from engines.networks import NetworkSpec
from runtime.pipeline import GuardedPipeline


class _Watched:
    """An engine on a host whose calls leave copies of their inputs in `calls`."""

    def __init__(self, engine: Engine, calls: list[dict[str, np.ndarray]]) -> None:
        self.spec: NetworkSpec = engine.spec
        self._engine, self._calls = engine, calls

    def bind(self, **tensors: Array) -> Callable[[], None]:
        """See `engines.backends.contract.Engine.bind`."""
        call = self._engine.bind(**tensors)

        def watched() -> None:
            self._calls.append({tensor.name: np.array(tensors[tensor.name]) for tensor in self.spec.inputs})
            call()

        return watched


def record_inputs(
    engine_dir: Path,
    networks: Sequence[str],
    prompts: Sequence[str],
    *,
    side: int,
    num_inference_steps: int,
    first_seed: int,
    every: int,
) -> dict[str, list[dict[str, np.ndarray]]]:
    """Inputs by name of each network's first call in a run, and of every `every`-th from there on; engines on a host.

    Prompt i runs with seed first_seed + i, unguarded and, where there is a guard, redirected from its first check on whatever it
    finds: so a prompt without the concept shows the networks redirected embeddings, too. Sides are the engines' default, at most
    `side` pixels.
    """
    calls: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in networks}
    kept: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in networks}

    def watched(engine: Engine) -> Engine:
        return _Watched(engine, calls[engine.spec.name]) if engine.spec.name in calls else engine

    unguarded = not Manifest.read(engine_dir)[0].guards
    with GuardedPipeline(engine_dir, unguarded=unguarded, wrap=watched) as pipeline:
        geometry = pipeline.manifest.geometry
        for index, prompt in enumerate(prompts):
            for alone in (True, False)[: 1 if unguarded else 2]:
                pipeline(
                    prompt,
                    seed=first_seed + index,
                    num_inference_steps=num_inference_steps,
                    height=min(geometry.default_height, side),
                    width=min(geometry.default_width, side),
                    unguarded=alone,
                    forced_verdict=None if alone else "unsafe",
                )
                for name in networks:
                    kept[name] += calls[name][::every]
                    calls[name].clear()
    return kept
