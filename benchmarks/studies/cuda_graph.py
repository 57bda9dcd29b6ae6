"""The guarded loop on a real GPU: one CUDA graph of all steps against its rivals, overlap, overhead and memory.

PyTorch modules of Stable Diffusion 1.5's shape with random weights, UNet in bfloat16 and guard in float32, in the runtime's
own loop and capture. Compared, interleaved, after warm-up:

  eager        every network launched by itself, the streams forked and joined at each step
  loop graph   one graph of all steps
  one stream   the same without a second stream: the guard after the UNet in place of beside it
  step graphs  one graph of two steps, replayed for every pair (`benchmarks.studies.step_graphs`)
  unguarded    one graph of all steps, without the guard

`python -m benchmarks.studies.cuda_graph` writes benchmarks/results/cuda_graph.json. Needs a GPU, PyTorch's CUDA build, cuda-python.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.studies.step_graphs import RebindableEngine, StepGraphs
from benchmarks.studies.uniform_run import uniform_run
from engines.backends.program import Execution, Program, Progress
from engines.cuda.device import open_cuda
from engines.cuda.graph import CudaProgram, Lanes
from engines.networks import NETWORKS
from engines.policy import Policy
from engines.store.atomic import replacing
from runtime.loop import Loop, Trace
from runtime.samplers.registry import recurrence
from runtime.samplers.schedules import SchedulerConfig
from runtime.start import LoopShape, Start

ROOT = Path(__file__).resolve().parent.parent.parent
GUIDANCE = 7.5


class TimedProgram:
    """A program of `engines.backends.program.Program` that keeps the milliseconds of its last run.

    They count from the launch to the end of the device's work, without what the loop writes before and reads after.
    """

    def __init__(self, program: Program, lanes: Lanes) -> None:
        self._program, self._lanes = program, lanes
        self.milliseconds = 0.0

    @property
    def execution(self) -> Execution:
        return self._program.execution

    def run(self, progress: Progress | None = None) -> None:
        """See `engines.backends.program.Program.run`. Waits for the device."""
        self._wait()
        started = time.perf_counter()
        self._program.run(progress)
        self._wait()
        self.milliseconds = 1000 * (time.perf_counter() - started)

    def _wait(self) -> None:
        self._lanes.cuda.call("cudaStreamSynchronize", self._lanes.main)


def eager(lanes: Lanes, steps: Any) -> Program:
    """Every network launched by itself."""
    return CudaProgram(lanes, steps, eager=True)


def in_series(lanes: Lanes, steps: Any) -> Program:
    """One graph of all steps on one stream."""
    return CudaProgram(lanes, [[[call] for stage in step for call in stage] for step in steps])


def modules() -> dict[str, Any]:
    """Networks of Stable Diffusion 1.5's shape with random weights, on the GPU."""
    import torch
    from diffusers import UNet2DConditionModel

    from benchmarks.studies.export_full_size import UNET
    from export.wrappers import SamplerStep, Unet
    from saferedir.guard import Concept, Guard
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
        "unet": Half(Unet(UNet2DConditionModel(**UNET)).for_inference()),
        "guard": Guard(Concept(Redirector())).for_inference(),
        "sampler_step": SamplerStep(),
    }
    return {name: module.eval().requires_grad_(False).cuda() for name, module in made.items()}


class Contest:
    """Loops of every kind on the same networks, inputs and sampler."""

    def __init__(self, steps: int, images: int) -> None:
        import torch

        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        self._cuda, self._modules = open_cuda(), modules()
        schedule = SchedulerConfig.read(json.loads((ROOT / "demo/model/scheduler/scheduler_config.json").read_text()))
        self._sampler = recurrence("ddim", steps, schedule)
        draw = np.random.default_rng(0)
        self._noise = draw.standard_normal((images, 4, 64, 64), np.float32)
        self._embeds = draw.standard_normal((2 * images, 77, 768), np.float32)
        self.device = ""
        self.loops: dict[str, Loop] = {}
        self._programs: dict[str, TimedProgram] = {}
        for name, make, guarded in (
            ("eager", eager, True),
            ("loop graph", CudaProgram, True),
            ("one stream", in_series, True),
            ("step graphs", StepGraphs, True),
            ("unguarded", CudaProgram, False),
        ):
            before, started = self._cuda.used_memory(), time.perf_counter()
            self.loops[name] = self._loop(name, make, guarded)
            seconds, taken = time.perf_counter() - started, (self._cuda.used_memory() - before) / 2**20
            print(f"{name}: ready after {seconds:.2f} s, {taken:.0f} MiB", flush=True)

    def _loop(self, name: str, make: Callable[[Lanes, Any], Program], guarded: bool) -> Loop:
        """A loop whose steps `make` turns into a program."""
        from benchmarks.studies.torch_cuda import TorchCudaBackend, TorchEngine

        def timed(lanes: Lanes, steps: Any) -> TimedProgram:
            self._programs[name] = TimedProgram(make(lanes, steps), lanes)
            return self._programs[name]

        backend = TorchCudaBackend(self._cuda, timed)
        self.device = backend.device
        engines = {
            network: RebindableEngine(TorchEngine(module, NETWORKS[network], backend))
            for network, module in self._modules.items()
            if guarded or network != "guard"
        }
        return Loop(engines, backend, self._run(guarded)[0])

    def _run(self, guarded: bool) -> tuple[LoopShape, Start]:
        policy = Policy(threshold=0.0) if guarded else None
        return uniform_run(self._embeds, self._noise, self._sampler, GUIDANCE, policy)

    def once(self, name: str) -> tuple[float, Trace]:
        """Milliseconds of one run, and what it left."""
        loop = self.loops[name]
        trace = loop.run(self._run(loop.shape.guarded)[1])
        return self._programs[name].milliseconds, trace


def main() -> None:
    """Run, compare bit for bit, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "cuda_graph.json")
    arguments = parser.parse_args()
    contest = Contest(arguments.steps, arguments.batch_size)
    final = {name: contest.once(name)[1].latents for name in contest.loops}
    times: dict[str, list[float]] = {name: [] for name in contest.loops}
    for turn in range(arguments.rounds):
        names = list(contest.loops)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            times[name].append(contest.once(name)[0])
    base = np.array(times["loop graph"])
    result = {
        "command": " ".join(["python -m benchmarks.studies.cuda_graph", *sys.argv[1:]]),
        "device": contest.device,
        "steps": arguments.steps,
        "images": arguments.batch_size,
        "rounds": arguments.rounds,
        "bit_identical_to_eager": {
            name: bool(np.array_equal(final[name], final["eager"])) for name in ("loop graph", "one stream", "step graphs")
        },
        "runs": {
            name: {
                "median_ms": float(np.median(milliseconds)),
                "p5_p95_ms": np.percentile(milliseconds, [5, 95]).tolist(),
                "ratio_to_loop_graph": float(np.median(np.array(milliseconds) / base)),
                "graph_memory_mib": contest.loops[name].execution.graph_memory / 2**20,
            }
            for name, milliseconds in times.items()
        },
    }
    print(json.dumps(result, indent=2))
    with replacing(arguments.output) as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
