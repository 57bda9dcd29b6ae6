"""CPU backends and session options, candidates in turns in one process: single networks, and the whole guarded loop.

Each round calls every candidate once, so that all meet the same machine; a ratio is the median over rounds of a candidate's
time over the first one's in the same round. Below 1 is faster than the first. Session options are judged by the loop, because
the threads of one network's session disturb the next network.

`python -m benchmarks.studies.cpu_backends` measures the demo's engines; `--engine-dir DIR --name sd15 --pixels 512 --rounds 3
--no-loop --networks NETWORK` one network of a full-size model. Both are kept in benchmarks/results/cpu_backends.json, under
their names.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import openvino

from benchmarks.studies.uniform_run import uniform_run
from benchmarks.suite.ratios import FEWEST
from engines.backends.contract import Backend, Contents, Engine
from engines.backends.host_memory import HostMemory, check_arrays
from engines.backends.onnxruntime_cpu import OnnxRuntimeBackend
from engines.backends.openvino_cpu import HINTS, OpenVinoBackend, OpenVinoEngine
from engines.manifest import Manifest
from engines.networks import NETWORKS, SLOTS, NetworkSpec
from engines.policy import Policy
from engines.store.default_folder import engine_folder
from runtime.loop import Loop
from runtime.samplers.registry import recurrence
from runtime.samplers.schedules import SchedulerConfig
from runtime.start import Start

ROOT = Path(__file__).resolve().parent.parent.parent
Call = Callable[[], None]
Figures = dict[str, dict[str, object]]
OURS, WARM_UP, STEPS = "onnxruntime float32", 1, 5  # the first candidate; rounds; of the loop
LEVELS = onnxruntime.GraphOptimizationLevel
CORE = openvino.Core()  # lives as long as the process: a second one that goes leaves a thread without its signal stack


class EveryNetwork(HostMemory):
    """OpenVINO with one precision for every network, the guard, too."""

    name = "openvino"

    def __init__(self, precision: str) -> None:
        self.precision = precision
        self.device = f"OpenVINO {openvino.__version__}, CPU, {precision}"

    def load(self, path: Path, spec: NetworkSpec, contents: Contents | None = None) -> Engine:
        return OpenVinoEngine(CORE, CORE.read_model(path), path, spec, self.precision, None)


class Dynamic(EveryNetwork):
    """Compiled once, for any shape."""

    def load(self, path: Path, spec: NetworkSpec, contents: Contents | None = None) -> Engine:
        return DynamicEngine(
            CORE.compile_model(CORE.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": HINTS[self.precision]}), spec
        )


class DynamicEngine:
    """A network that was compiled for any shape."""

    def __init__(self, compiled: openvino.CompiledModel, spec: NetworkSpec) -> None:
        self.spec, self._compiled = spec, compiled

    def bind(self, **tensors: np.ndarray) -> Call:
        """See `engines.backends.contract.Engine.bind`."""
        check_arrays(self.spec, tensors)
        request = self._compiled.create_infer_request()
        for name, array in tensors.items():
            request.set_tensor(name, openvino.Tensor(array, shared_memory=True))

        def call(held: dict[str, np.ndarray] = tensors) -> None:  # OpenVINO knows addresses only: the call holds the arrays
            request.start_async()
            request.wait()

        return call


class WithOptions(OnnxRuntimeBackend):
    """ONNX Runtime with one option changed: an attribute of the session options, or a config entry."""

    def __init__(self, name: str, value: object) -> None:
        super().__init__()
        self._name, self._value = name, value

    def options(self) -> onnxruntime.SessionOptions:
        options = super().options()
        if "." in self._name:
            options.add_session_config_entry(self._name, str(self._value))
        else:
            setattr(options, self._name, self._value)
        return options


class Timed:
    """An engine whose calls add their seconds to `spent`."""

    def __init__(self, engine: Engine, spent: list[float]) -> None:
        self.spec, self._engine, self._spent = engine.spec, engine, spent

    def bind(self, **tensors: np.ndarray) -> Call:
        call, spent = self._engine.bind(**tensors), self._spent

        def timed() -> None:
            started = time.perf_counter()
            call()
            spent[0] += time.perf_counter() - started

        return timed


BACKENDS: dict[str, Callable[[], Backend]] = {
    OURS: OnnxRuntimeBackend,
    "openvino float32": lambda: EveryNetwork("float32"),
    "openvino bfloat16": lambda: EveryNetwork("bfloat16"),
    "openvino float32, dynamic shapes": lambda: Dynamic("float32"),
    "openvino bfloat16, dynamic shapes": lambda: Dynamic("bfloat16"),
}
LOOPS: dict[str, Callable[[], Backend]] = {
    OURS: OnnxRuntimeBackend,
    "openvino float32": lambda: OpenVinoBackend("float32"),
    "openvino bfloat16": lambda: OpenVinoBackend("bfloat16"),
    "spin as installed": lambda: WithOptions("session.intra_op.spin_duration_us", "-1"),
    "spin 100 us": lambda: WithOptions("session.intra_op.spin_duration_us", "100"),
    "no spinning": lambda: WithOptions("session.intra_op.allow_spinning", "0"),
    "one thread": lambda: WithOptions("intra_op_num_threads", 1),
    "no NCHWc layout": lambda: WithOptions("graph_optimization_level", LEVELS.ORT_ENABLE_EXTENDED),
    "basic graph optimisation": lambda: WithOptions("graph_optimization_level", LEVELS.ORT_ENABLE_BASIC),
    "no memory pattern": lambda: WithOptions("enable_mem_pattern", False),
    "denormals are zero": lambda: WithOptions("session.set_denormal_as_zero", "1"),
    "weights not prepacked": lambda: WithOptions("session.disable_prepacking", "1"),
}


def in_turns(calls: Mapping[str, Call], rounds: int) -> Figures:
    """Medians of each call, and ratios to the first, of `rounds` rounds after one that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + WARM_UP):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            times[name].append(1000 * (time.perf_counter() - started))
    times = {name: milliseconds[WARM_UP:] for name, milliseconds in times.items()}
    first, figures = np.array(next(iter(times.values()))), dict[str, dict[str, object]]()
    for name, milliseconds in times.items():
        low, middle, high = np.percentile(np.array(milliseconds) / first, [25, 50, 75])
        figures[name] = {
            "median_ms": round(float(np.median(milliseconds)), 3),
            "fastest_ms": round(min(milliseconds), 3),
            "ratio": round(float(middle), 3),
            "ratio_quartiles": [round(float(low), 3), round(float(high), 3)] if rounds >= FEWEST else None,
            "n": rounds,
        }
    return figures


def arrays(spec: NetworkSpec, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Random inputs, outputs of zeros."""
    draw = np.random.default_rng(0)
    return {
        tensor.name: draw.standard_normal(tensor.shape(sizes), np.float32)
        if tensor.span is None and tensor.dtype == "float32"
        else np.full(tensor.shape(sizes), sum(tensor.span or (0, 0)) / 2, tensor.dtype)
        for tensor in spec.tensors
    }


def one_network(folder: Path, name: str, backends: list[str], sizes: Mapping[str, int], rounds: int) -> Figures:
    """Times, ratios, seconds to load and bind, and largest differences from the first candidate's outputs."""
    spec, calls, bound, seconds = NETWORKS[name], {}, {}, {}
    for backend in backends:
        bound[backend], started = arrays(spec, sizes), time.perf_counter()
        calls[backend] = BACKENDS[backend]().load(folder / name / "model.onnx", spec).bind(**bound[backend])
        seconds[backend] = round(time.perf_counter() - started, 2)
    figures = in_turns(calls, rounds)
    for backend in backends:
        figures[backend] |= {
            "load_seconds": seconds[backend],
            "largest_difference": max(
                float(np.abs(bound[backend][tensor.name].astype(float) - bound[backends[0]][tensor.name]).max())
                for tensor in spec.outputs
            ),
        }
    return figures


def loops(folder: Path, manifest: Manifest, sizes: dict[str, int], rounds: int) -> Figures:
    """The guarded loop of one image: milliseconds a step, and those outside the engines' calls."""
    sampler = recurrence("ddim", STEPS, SchedulerConfig.read(manifest.scheduler))
    draw, calls = np.random.default_rng(0), dict[str, Call]()
    outside: dict[str, list[float]] = {}
    noise = draw.standard_normal((1, 4, sizes["H"], sizes["W"]), np.float32)
    embeds = draw.standard_normal((2, 77, sizes["D"]), np.float32)
    for name, make in LOOPS.items():
        backend, spent = make(), [0.0]
        engines = {
            network: Timed(backend.load(folder / network / "model.onnx", NETWORKS[network]), spent)
            for network in ("unet", "guard", "sampler_step")
        }
        shape, start = uniform_run(embeds, noise, sampler, 7.5, Policy())
        loop = Loop(engines, backend, shape)
        outside[name] = []

        def call(loop: Loop = loop, start: Start = start, spent: list[float] = spent, seen: list[float] = outside[name]) -> None:
            spent[0], started = 0.0, time.perf_counter()
            loop.run(start)
            seen.append(1000 * (time.perf_counter() - started - spent[0]) / STEPS)

        calls[name] = call
    figures = in_turns(calls, rounds)
    for name, row in figures.items():
        row |= {"outside_engines_ms_per_step": round(float(np.median(outside[name])), 4)}
    return figures


def show(title: str, figures: Figures) -> Figures:
    for name, row in figures.items():
        print(f"{title:<13} {name:<34} {row}", flush=True)
    gc.collect()
    return figures


def main() -> None:
    """Print the comparison and add it to the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine-dir", type=Path, default=engine_folder(), help="made by saferedir build (%(default)s)")
    parser.add_argument("--name", default="demo")
    parser.add_argument("--pixels", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    parser.add_argument("--no-loop", action="store_true")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "cpu_backends.json")
    arguments = parser.parse_args()
    onnxruntime.set_default_logger_severity(3)  # it warns of an option that is set twice
    manifest, _ = Manifest.read(arguments.engine_dir)
    sizes = manifest.geometry.sizes(arguments.pixels, arguments.pixels, B=1, C=2, K=len(manifest.guards), S=SLOTS[1])
    kept = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    result = kept.setdefault(arguments.name, {"networks": {}})
    command = " ".join(["python -m benchmarks.studies.cpu_backends", *sys.argv[1:]]).replace(
        str(arguments.engine_dir), "ENGINE_DIR"
    )
    if command not in (commands := result.setdefault("commands", [])):
        commands.append(command)
    result |= {
        "machine": f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start",
        "onnxruntime": onnxruntime.__version__,
        "openvino": openvino.__version__.split("-")[0],
    }
    for name in arguments.networks:
        result["networks"][name] = show(name, one_network(arguments.engine_dir, name, arguments.backends, sizes, arguments.rounds))
    if not arguments.no_loop:
        result[f"loop_of_{STEPS}_steps"] = show("loop", loops(arguments.engine_dir, manifest, sizes, arguments.rounds))
    arguments.output.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
