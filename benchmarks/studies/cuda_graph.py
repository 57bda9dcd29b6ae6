"""The guarded loop on a real GPU: one CUDA graph of all steps against its rivals, overlap, overhead and memory.

PyTorch modules of Stable Diffusion 1.5's shape with random weights, UNet in bfloat16 and guard in float32, in the runtime's
own loop and capture. Compared, interleaved, after warm-up:

  eager        every network launched by itself, the streams forked and joined at each step
  loop graph   one graph of all steps
  step graphs  one graph of two steps (the arrays that a step reads and the next one writes are there twice), replayed
               for every pair, its row of the sampler's table copied in on the device
  unguarded    one graph of all steps, without the guard

`python -m benchmarks.studies.cuda_graph` writes benchmarks/results/cuda_graph.json. Needs a GPU, PyTorch's CUDA build, cuda-python.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from engines.backends.program import Execution, Progress
from engines.cuda.device import DeviceArray, open_cuda
from engines.cuda.graph import CudaProgram, Lanes
from engines.errors import InputError
from engines.manifest import Policy
from engines.networks import NETWORKS
from engines.store.atomic import replacing
from runtime.loop import Loop
from runtime.samplers.schedules import NoiseSchedule
from runtime.samplers.tables import SamplerTable, sampler_table

ROOT = Path(__file__).resolve().parent.parent.parent
GUIDANCE = 7.5


class StepGraphs:
    """A loop of `table`, run as one graph of two steps that is replayed for every pair of rows.

    The rows of the table are copied into the two rows that the graph reads, on the stream, before each replay, and what
    the two steps report is copied out after it.
    """

    def __init__(self, loop: Loop, table: SamplerTable, cuda: Any, stream: Any) -> None:
        """`loop` was made with the first two rows of `table`, which has an even number of rows."""
        if table.rows % 2:
            raise InputError(f"steps: expected an even number, found {table.rows}")
        self._loop, self._cuda, self._stream = loop, cuda, stream
        self._copies = [
            (self._rows(loop._timesteps, table.timesteps), loop._timesteps),
            (self._rows(loop._coefficients, table.coefficients), loop._coefficients),
        ]
        self._reports = [
            (buffer, cuda.zeros((table.rows, *buffer.shape[1:]), buffer.dtype.name, rows=True))
            for buffer in (loop._finite, loop._p_unsafe)
        ]
        self._pairs = table.rows // 2

    def _rows(self, like: DeviceArray, values: np.ndarray) -> DeviceArray:
        array = self._cuda.zeros(values.shape, like.dtype.name, rows=True)
        self._cuda.write(array, values, self._stream)
        return array

    def run(self, progress: Progress | None = None) -> None:
        """Enqueue all steps."""
        for pair in range(self._pairs):
            for row in (0, 1):
                for origin, to in self._copies:
                    self._cuda.copy(to[row, ...], origin[2 * pair + row, ...], self._stream)
            self._loop._program.run()
            for row in (0, 1):
                for origin, to in self._reports:
                    self._cuda.copy(to[2 * pair + row, ...], origin[row, ...], self._stream)

    @property
    def p_unsafe(self) -> np.ndarray:
        """[R, B] of the last run."""
        return self._cuda.read(self._reports[1][1], self._stream)

    @property
    def execution(self) -> Execution:
        return self._loop.execution


def first_rows(table: SamplerTable, rows: int) -> SamplerTable:
    """The beginning of a table."""
    return SamplerTable(
        table.name, table.timesteps[:rows], table.coefficients[:rows], table.init_noise_sigma, table.input_scale, table.history_x
    )


def modules() -> dict[str, Any]:
    """Networks of Stable Diffusion 1.5's shape with random weights, on the GPU."""
    import torch
    from diffusers import UNet2DConditionModel

    from benchmarks.studies.export_full_size import UNET
    from export.wrappers import SamplerStep, Unet
    from saferedir.guard import Guard
    from saferedir.heads import Redirector

    class Half(torch.nn.Module):
        """bfloat16 inside, float32 outside."""

        def __init__(self, module: torch.nn.Module) -> None:
            super().__init__()
            self.module = module.to(torch.bfloat16)

        def forward(self, sample, timestep, encoder_hidden_states):
            return self.module(sample.bfloat16(), timestep, encoder_hidden_states.bfloat16()).float()

    torch.manual_seed(0)
    made = {
        "unet": Half(Unet(UNet2DConditionModel(**UNET))),
        "guard": Guard(Redirector()).for_inference(),
        "sampler_step": SamplerStep(),
    }
    return {name: module.eval().requires_grad_(False).cuda() for name, module in made.items()}


class Contest:
    """Loops of every kind on the same networks, inputs and table."""

    def __init__(self, steps: int, images: int) -> None:
        import torch

        from benchmarks.studies.torch_cuda import TorchCudaBackend, TorchEngine

        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        self.cuda, networks = open_cuda(), modules()
        schedule = NoiseSchedule.from_config(json.loads((ROOT / "demo/model/scheduler/scheduler_config.json").read_text()))
        table = sampler_table("ddim", steps, schedule)
        sizes = {"B": images, "CB": 2 * images, "H": 64, "W": 64, "D": 768}
        draw = np.random.default_rng(0)
        self.noise = draw.standard_normal((images, 4, 64, 64), np.float32)
        self.embeds = draw.standard_normal((2 * images, 77, 768), np.float32)
        self.device = ""
        self.runs: dict[str, tuple[Loop, Any, Lanes]] = {}
        for name, rows, eager, guarded in (
            ("eager", table, True, True),
            ("loop graph", table, False, True),
            ("step graphs", first_rows(table, 2), False, True),
            ("unguarded", table, False, False),
        ):
            backend = TorchCudaBackend(self.cuda, lambda lanes, made, eager=eager: CudaProgram(lanes, made, eager))
            engines = {
                key: TorchEngine(module, NETWORKS[key], backend) for key, module in networks.items() if guarded or key != "guard"
            }
            before, started = self.cuda.used_memory(), time.perf_counter()
            loop = Loop(engines, backend, rows, sizes)
            runner = StepGraphs(loop, table, self.cuda, backend.lanes.main) if name == "step graphs" else loop._program
            seconds, taken = time.perf_counter() - started, (self.cuda.used_memory() - before) / 2**20
            print(f"{name}: ready after {seconds:.2f} s, {taken:.0f} MiB", flush=True)
            self.runs[name], self.device = (loop, runner, backend.lanes), backend.device

    def once(self, name: str) -> float:
        """Milliseconds of one run, from the launch to the end of the device's work."""
        loop, runner, lanes = self.runs[name]
        loop._start(self.embeds, self.noise, GUIDANCE, Policy(threshold=0.0) if name != "unguarded" else None)
        started = time.perf_counter()
        runner.run()
        self.cuda.call("cudaStreamSynchronize", lanes.main)
        return 1000 * (time.perf_counter() - started)

    def latents(self, name: str) -> np.ndarray:
        loop, runner, lanes = self.runs[name]
        self.once(name)
        return self.cuda.read(loop._pairs["sample"][0], lanes.main)


def main() -> None:
    """Run, compare bit for bit, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "cuda_graph.json")
    arguments = parser.parse_args()
    contest = Contest(arguments.steps, arguments.batch_size)
    final = {name: contest.latents(name) for name in contest.runs}
    times: dict[str, list[float]] = {name: [] for name in contest.runs}
    for turn in range(arguments.rounds):
        names = list(contest.runs)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            times[name].append(contest.once(name))
    base = np.array(times["loop graph"])
    result = {
        "command": " ".join(["python -m benchmarks.studies.cuda_graph", *sys.argv[1:]]),
        "device": contest.device,
        "steps": arguments.steps,
        "images": arguments.batch_size,
        "rounds": arguments.rounds,
        "bit_identical_to_eager": {
            name: bool(np.array_equal(final[name], final["eager"])) for name in ("loop graph", "step graphs")
        },
        "runs": {
            name: {
                "median_ms": float(np.median(found)),
                "p5_p95_ms": np.percentile(found, [5, 95]).tolist(),
                "ratio_to_loop_graph": float(np.median(np.array(found) / base)),
                "graph_memory_mib": contest.runs[name][1].execution.graph_memory / 2**20,
            }
            for name, found in times.items()
        },
    }
    print(json.dumps(result, indent=2))
    with replacing(arguments.output) as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
