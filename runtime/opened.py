"""What a pipeline keeps while it is open: the backend, its engines, and the loops of the latest shapes."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from engines.backends.contract import Backend, Engine, run_once
from runtime.loop import Loop
from runtime.start import LoopShape

LOOPS = 4  # shapes whose buffers are kept


class Opened:
    """Runs networks and loops; dropped as a whole when the pipeline is closed."""

    def __init__(self, backend: Backend, engines: dict[str, Engine]) -> None:
        self.backend, self.engines = backend, engines
        self._loops: OrderedDict[LoopShape, Loop] = OrderedDict()

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
