"""Three ways to a half-precision ONNX file: CPU seconds, peak memory, file size and error against float32 PyTorch, by network.

    pass    the build's pass over the float32 file (`export.precision.half_precision`)
    tool    onnxruntime's float16 tool on the same file, the same operators held in float32
    export  the PyTorch modules exported in half, their normalisations in float32

Each runs in a process of its own; its CPU seconds are those of the work without imports, which a busy machine hardly changes.
Errors are those of the file, computed by `export.precision.emulation`. The float32 export, which the first two ways need, is
listed, too.

`python -m benchmarks.studies.precision_error` writes benchmarks/results/precision.json from the demo's networks.
precision_full_size.json is of the UNet of a model of Stable Diffusion 1.5's size with random weights, as
`export_full_size.write_model` makes it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.transformers import float16
from torch import Tensor, nn

from benchmarks.studies.exporters import latencies
from engines.backends.contract import run_once
from engines.backends.registry import open_backend
from engines.networks import NETWORKS
from export.build_command import DEMO_MODEL
from export.exported_networks import EXPORTED_NETWORKS, resolve
from export.onnx_file import example, export_network
from export.precision.emulation import emulate
from export.precision.half_precision import ANY_DTYPE_OPS, FOLLOWING_OPS, HALF_OPS, convert
from export.sources.load import load_component
from export.sources.locate import find_model
from export.sources.model_folder import Source

ROOT = Path(__file__).resolve().parent.parent.parent
ROWS = {row.name: row for row in EXPORTED_NETWORKS if row.component is not None}
WAYS = {"float16": ("pass", "tool", "export"), "bfloat16": ("pass", "export")}


class InHalf(nn.Module):
    """A module in half, its normalisations in float32; tensors other than scalars enter in half, results leave in float32."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module, self.dtype = module.to(dtype), dtype
        for part in module.modules():
            if isinstance(part, nn.LayerNorm | nn.GroupNorm):
                part.float().register_forward_pre_hook(lambda _, inputs: tuple(value.float() for value in inputs))
                part.register_forward_hook(lambda _, inputs, output: output.to(dtype))

    def forward(self, *inputs: Tensor) -> Any:
        outputs = self.module(*(value.to(self.dtype) if value.is_floating_point() and value.dim() else value for value in inputs))
        single = isinstance(outputs, Tensor)
        widened = [value.float() if value.is_floating_point() else value for value in ([outputs] if single else outputs)]
        return widened[0] if single else tuple(widened)


def module_of(network: str, source: Source) -> nn.Module:
    """A network in float32."""
    row = ROWS[network]
    module: nn.Module = resolve(row.wrapper)(load_component(source, row.component or ""))
    return module.eval()


def sizes(source: Source) -> dict[str, int]:
    """A number for each symbol."""
    factor = source.geometry.scale_factor
    return source.geometry.sizes(16 * factor, 24 * factor, B=2, C=2)


def export_float32(folder: Path, network: str, model: str) -> float:
    """Export, and save inputs and PyTorch's outputs for the comparison; CPU seconds of the export."""
    source, spec = find_model(model), NETWORKS[network]
    module, inputs = module_of(network, source), example(spec, sizes(source), 1)
    with torch.no_grad():
        outputs = module(*inputs.values())
    named = zip(spec.outputs, [outputs] if isinstance(outputs, Tensor) else outputs, strict=True)
    arrays: dict[str, Any] = {tensor.name: value.numpy() for tensor, value in named}
    np.savez(folder / "expected.npz", **arrays)
    arrays = {name: value.numpy() for name, value in inputs.items()}
    np.savez(folder / "inputs.npz", **arrays)
    started = time.process_time()
    export_network(module, spec, {"D": source.geometry.embed_dim}, folder / "float32.onnx")
    return time.process_time() - started


def make_half(folder: Path, network: str, model: str, precision: str, way: str) -> float:
    """Write half.onnx; CPU seconds."""
    if way == "export":
        source, dtype = find_model(model), getattr(torch, precision)
        module = module_of(network, source)
        wrapped = InHalf(module, dtype)
        started = time.process_time()
        export_network(wrapped, NETWORKS[network], {"D": source.geometry.embed_dim}, folder / "half.onnx")
        return time.process_time() - started
    started = time.process_time()
    if way == "pass":
        graph = onnx.load(folder / "float32.onnx")
        convert(graph, precision)
    else:
        nodes = onnx.load(folder / "float32.onnx", load_external_data=False).graph.node
        half = HALF_OPS | FOLLOWING_OPS | ANY_DTYPE_OPS
        held = {node.op_type for node in nodes} - half
        graph = float16.convert_float_to_float16(str(folder / "float32.onnx"), keep_io_types=True, op_block_list=sorted(held))
    onnx.save(graph, folder / "half.onnx", save_as_external_data=(folder / "float32.onnx.data").exists(), location="half.onnx.data")
    return time.process_time() - started


def errors(folder: Path, network: str, model: str, precision: str) -> dict[str, dict[str, float]]:
    """Cosine, largest error and largest error over largest magnitude of each output of half.onnx but integers and booleans."""
    backend, spec = open_backend("onnxruntime"), NETWORKS[network]
    with np.load(folder / "inputs.npz") as inputs, np.load(folder / "expected.npz") as expected:
        engine = backend.load(emulate(folder / "half.onnx", precision), spec)
        found = run_once(engine, backend, dict(inputs), sizes(find_model(model)))
        figures = {}
        for name in [tensor.name for tensor in spec.outputs if tensor.dtype in ("float32", "uint8")]:
            a, b = expected[name].astype(np.float64).ravel(), found[name].astype(np.float64).ravel()
            error = np.abs(a - b).max()
            figures[name] = {
                "cosine": round(float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b))), 7),
                "max_abs_error": float(f"{error:.3g}"),
                "relative_error": float(f"{error / np.abs(a).max():.3g}"),
            }
    return figures


def measured(limit: int, work: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """What `work` returns and the peak memory of a process of its own; a note where it failed or used up its CPU seconds."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(sender, limit, work, arguments))
    process.start()
    sender.close()
    try:
        result = receiver.recv()
    except EOFError:
        result = None
    process.join()
    if result is None:
        spent = process.exitcode == -signal.SIGXCPU
        return {"failed": f"not done after {limit} CPU seconds" if spent else f"the process ended with {process.exitcode}"}
    return result


def _report(sender: Connection, limit: int, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
    warnings.simplefilter("ignore")
    try:
        result = work(*arguments)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        sender.send({"result": result, "peak_memory_gib": round(peak, 2)})
    except Exception as error:  # whatever a library raises is the finding
        sender.send({"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"})


def compare_ways(network: str, model: str, scratch: Path, limit: int) -> dict[str, Any]:
    """The float32 export, then each way in each precision."""
    folder = scratch / network
    folder.mkdir()
    exported = measured(limit, export_float32, folder, network, model)
    if "failed" in exported:
        raise SystemExit(f"{network}: the float32 export failed: {exported['failed']}")
    figures: dict[str, Any] = {"float32 export": _with_size(exported, folder, "float32.onnx")}
    for precision, ways in WAYS.items():
        for way in ways:
            found = _with_size(measured(limit, make_half, folder, network, model, precision, way), folder, "half.onnx")
            if "failed" not in found:
                compared = measured(limit, errors, folder, network, model, precision)
                found |= {"errors": compared["result"]} if "result" in compared else compared
            figures[f"{precision} {way}"] = found
            print(f"{network:<13} {precision:<9} {way:<7} {json.dumps(found)}", flush=True)
            if (network, precision, way) == ("unet", "float16", "pass") and not (folder / "half.onnx.data").exists():
                shutil.copy(folder / "half.onnx", scratch / "float16.onnx")
            for file in folder.glob("half.onnx*"):
                file.unlink()
    return figures


def _with_size(found: dict[str, Any], folder: Path, name: str) -> dict[str, Any]:
    if "failed" in found:
        return found
    size = sum(file.stat().st_size for file in folder.glob(f"{name}*"))
    return {
        "cpu_seconds": round(found["result"], 2),
        "peak_memory_gib": found["peak_memory_gib"],
        "megabytes": round(size / 1e6, 1),
    }


def cpu_ratio(scratch: Path, rounds: int = 100) -> dict[str, float]:
    """ONNX Runtime's time for the UNet in float16 over that in float32, one call of each in turns: quartiles of the ratio."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    sessions = {
        name: onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for name, path in (("float32", scratch / "unet" / "float32.onnx"), ("float16", scratch / "float16.onnx"))
    }
    with np.load(scratch / "unet" / "inputs.npz") as inputs:
        times, _ = latencies(sessions, dict(inputs), rounds)
    quartiles = np.percentile(np.divide(times["float16"], times["float32"]), [25, 50, 75])
    names = ("lower_quartile", "median", "upper_quartile")
    return {**{name: round(float(quartile), 3) for name, quartile in zip(names, quartiles, strict=True)}, "n": rounds}


def main() -> None:
    """Print and write the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(DEMO_MODEL), help="diffusers folder (default: the demo)")
    parser.add_argument("--networks", nargs="+", choices=tuple(ROWS), default=list(ROWS))
    parser.add_argument("--limit", type=int, default=300, help="CPU seconds that one process may take (%(default)s)")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "precision.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=ROOT / "engines", prefix=".precision-") as folder:
        figures = {network: compare_ways(network, arguments.model, Path(folder), arguments.limit) for network in arguments.networks}
        result = {
            "command": " ".join(["python -m benchmarks.studies.precision_error", *sys.argv[1:]]).replace(arguments.model, "MODEL"),
            "machine": f"{os.cpu_count()} cores, {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
            "torch": torch.__version__,
            "onnxruntime": onnxruntime.__version__,
            "onnx": onnx.__version__,
            "networks": figures,
        }
        if arguments.model == str(DEMO_MODEL) and "unet" in arguments.networks:
            result["onnxruntime_cpu_float16_over_float32"] = cpu_ratio(Path(folder))
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
