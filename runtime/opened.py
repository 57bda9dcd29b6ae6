"""What a pipeline keeps while it is open: the backend, its engines, and the loops of the latest shapes."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from engines.backends.contract import Backend, Engine, run_once
from engines.manifest import Manifest
from engines.networks import SLOTS
from runtime.loop import Loop
from runtime.samplers.options import SchedulerError
from runtime.samplers.registry import recurrence
from runtime.samplers.schedules import SchedulerConfig
from runtime.start import LoopShape

LOOPS = 4  # shapes whose buffers are kept
STEPS = 20  # of a sampler that is asked for its slots; they do not depend on it


class Opened:
    """Runs networks and loops; dropped as a whole when the pipeline is closed."""

    def __init__(self, backend: Backend, engines: dict[str, Engine]) -> None:
        self.backend, self.engines = backend, engines
        self._loops: OrderedDict[LoopShape, Loop] = OrderedDict()

    def bind_all(self, manifest: Manifest, config: SchedulerConfig) -> None:
        """Bind every network in the only size that its engines take, if there is but one, as a picture with guidance needs it.

        What a backend makes for a shape is then made here, and not in the first picture. `config` is the model's scheduler.
        """
        if manifest.sizes.only is None:
            return
        images, height, width = manifest.sizes.only
        branches = 1 if manifest.geometry.time_cond_proj_dim else 2
        sizes = manifest.geometry.sizes(height, width, B=images, C=branches, K=len(manifest.guards), S=_slots(config))
        for engine in self.engines.values():
            engine.bind(**{each.name: self.backend.zeros(each.shape(sizes), each.dtype) for each in engine.spec.tensors})

    def run(self, network: str, inputs: dict[str, np.ndarray], sizes: dict[str, int]) -> dict[str, np.ndarray]:
        """Call a network once; see `engines.backends.contract.run_once`."""
        return run_once(self.engines[network], self.backend, inputs, sizes)

    def loop(self, shape: LoopShape) -> Loop:
        if shape not in self._loops:
            self._loops[shape] = Loop(self.engines, self.backend, shape)
            if len(self._loops) > LOOPS:
                self._loops.popitem(last=False)
        self._loops.move_to_end(shape)
        return self._loops[shape]


def _slots(config: SchedulerConfig) -> int:
    """S of the model's own sampler. Where that cannot be used, every call names another, and the usual number has to do."""
    try:
        return recurrence(config.class_name, STEPS, config).slots
    except SchedulerError:
        return SLOTS[1]
