"""The guard's network under ONNX Runtime on a CPU: as exported, as trained, for several concepts, and beside the UNet.

Sessions take turns, one call of each in every round, in an order that rotates, the UNet first. With one thread (the default)
the time is the process's own, which a busy machine hardly disturbs; with more it is the clock's.

`python -m benchmarks.studies.guard_network --unet ENGINE_DIR/unet/model.onnx` writes benchmarks/results/guard_network.json; the
UNet is one of Stable Diffusion 1.5's size, built for ONNX Runtime, and without it only the demo's guard meets a UNet.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from diffusers import UNet2DConditionModel
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.studies.export_full_size import UNET
from engines.networks import NETWORKS, NetworkSpec, with_derived
from export.onnx_file import example, export_network
from export.sources.load import load_component
from export.sources.locate import find_model
from export.wrappers import Unet
from saferedir.checkpoint import load_redirector
from saferedir.guard import Concept, Guard, TokenMask
from saferedir.heads import Redirector

ROOT = Path(__file__).resolve().parent.parent.parent

SEVERAL = (2, 4)  # concepts of one guard, beside one alone

Times = Mapping[str, np.ndarray]


def sizes_of(width: int, latent: int, concepts: int = 1) -> dict[str, int]:
    """One image under guidance."""
    return with_derived({"B": 1, "C": 2, "K": concepts, "H": latent, "W": latent, "D": width})


def multiplications(module: nn.Module, spec: NetworkSpec, sizes: Mapping[str, int], device: str = "cpu") -> float:
    """Giga multiply-accumulates of one call."""
    inputs = [tensor.to(device) for tensor in example(spec, sizes).values()]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module.eval()(*inputs)
    return counter.get_total_flops() / 2e9


def forms_of(redirector: Redirector) -> dict[str, nn.Module]:
    """What is compared, by name. Further concepts have random weights of the same widths."""
    guard = Guard(Concept(redirector))
    others = [Concept(Redirector(redirector.config)) for _ in range(max(SEVERAL) - 1)]
    return {
        "trained": guard,
        "exported": guard.for_inference(winograd=True),
        "exported for GPUs": guard.for_inference(),
        "exported, mask again": Guard(Concept(redirector, mask_again=True)).for_inference(winograd=True),
        **{_of_several(count): Guard(*guard.concepts, *others[: count - 1]).for_inference(winograd=True) for count in SEVERAL},
        "token_mask": TokenMask(Concept(redirector)),
    }


def _of_several(concepts: int) -> str:
    return f"exported, {concepts} concepts"


CONCEPTS = {_of_several(count): count for count in SEVERAL}  # of forms that have more than one


def spec_of(name: str) -> NetworkSpec:
    """The network that something compared here is a form of."""
    return NETWORKS.get(name, NETWORKS["guard"])


def open_session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def measure(sessions: Mapping[str, onnxruntime.InferenceSession], width: int, latent: int, rounds: int, threads: int) -> Times:
    """Milliseconds [rounds] of each session, after two rounds that are not counted."""
    clock = time.process_time if threads == 1 else time.perf_counter
    sizes = {name: sizes_of(width, latent, CONCEPTS.get(name, 1)) for name in sessions}
    feeds = {name: {key: tensor.numpy() for key, tensor in example(spec_of(name), sizes[name]).items()} for name in sessions}
    times: dict[str, list[float]] = {name: [] for name in sessions}
    others = [name for name in sessions if name != "unet"]
    for number in range(rounds + 2):
        turn = number % len(others)
        for name in [*(["unet"] if "unet" in sessions else []), *others[turn:], *others[:turn]]:
            started = clock()
            sessions[name].run(None, feeds[name])
            times[name].append(1000 * (clock() - started))
    return {name: np.array(milliseconds[2:]) for name, milliseconds in times.items()}


def spread(values: np.ndarray) -> list[float]:
    """Median, 5th and 95th percentile."""
    return [float(f"{value:.4g}") for value in np.percentile(values, [50, 5, 95])]


def table(times: Times, giga: Mapping[str, float]) -> dict[str, dict[str, object]]:
    """Figures of each session; ratios are of the same round."""
    rows: dict[str, dict[str, object]] = {}
    for name, milliseconds in times.items():
        rows[name] = {
            "ms": spread(milliseconds),
            "gmac": round(giga[name], 4),
            "gflops": round(2000 * giga[name] / float(np.median(milliseconds)), 1),
        }
        if name != "unet":
            rows[name]["ratio_to_trained"] = spread(milliseconds / times["trained"])
            if name in CONCEPTS:
                rows[name]["ratio_to_one_concept"] = spread(milliseconds / times["exported"])
            if "unet" in times:
                rows[name]["ratio_to_unet"] = spread(milliseconds / times["unet"])
    return rows


def run(redirector: Redirector, latent: int, unet: tuple[Path, float] | None, rounds: int, threads: int) -> dict[str, object]:
    """Every form at one shape, beside a UNet (file and its multiplications) where there is one."""
    width = redirector.config.embed_dim
    forms, sessions = forms_of(redirector), dict[str, onnxruntime.InferenceSession]()
    with tempfile.TemporaryDirectory() as scratch:
        for name, module in forms.items():
            path = Path(scratch) / f"{len(sessions)}.onnx"
            export_network(module, spec_of(name), {"D": width, "K": CONCEPTS.get(name, 1)}, path)
            sessions[name] = open_session(path, threads)
    sizes = {name: sizes_of(width, latent, CONCEPTS.get(name, 1)) for name in forms}
    giga = {name: multiplications(module, spec_of(name), sizes[name]) for name, module in forms.items()}
    for name in ("exported", "exported for GPUs", *CONCEPTS):
        giga[name] -= CONCEPTS.get(name, 1) * giga["token_mask"]  # exporting drops the mask predictors
    if unet is not None:
        sessions["unet"], giga["unet"] = open_session(unet[0], threads), unet[1]
    return {
        "latent": latent,
        "prompt_width": width,
        "rounds": rounds,
        "networks": table(measure(sessions, width, latent, rounds, threads), giga),
    }


def main() -> None:
    """Print and write the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unet", type=Path, help="model.onnx of a UNet of Stable Diffusion 1.5's size")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=12, help="at Stable Diffusion's size; the demo's runs take 20 times as many")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "guard_network.json")
    arguments = parser.parse_args()
    source = find_model(str(ROOT / "demo" / "model"))
    demo = load_redirector(ROOT / "demo" / "fire.safetensors")
    torch.manual_seed(0)
    full, full_unet = Redirector(), None
    if arguments.unet is not None:
        with torch.device("meta"):
            module = Unet(UNet2DConditionModel(**UNET)).for_inference()
        full_unet = arguments.unet, multiplications(module, NETWORKS["unet"], sizes_of(768, 64), "meta")
    with tempfile.TemporaryDirectory() as scratch:
        module, path = Unet(load_component(source, "unet")).for_inference(), Path(scratch) / "unet.onnx"
        export_network(module, NETWORKS["unet"], {"D": source.geometry.embed_dim}, path)
        demo_unet = path, multiplications(module, NETWORKS["unet"], sizes_of(source.geometry.embed_dim, 16))
        shapes = {"demo": run(demo, 16, demo_unet, 20 * arguments.rounds, arguments.threads)}
    shapes["Stable Diffusion 1.5"] = run(full, 64, full_unet, arguments.rounds, arguments.threads)
    result = {
        "command": f"python -m benchmarks.studies.guard_network --rounds {arguments.rounds}"
        + (" --unet ENGINE_DIR/unet/model.onnx" if arguments.unet else ""),
        "threads": arguments.threads,
        "time": "of the process" if arguments.threads == 1 else "of the clock",
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "columns": "median, 5th and 95th percentile",
        "shapes": shapes,
    }
    print(json.dumps(result, indent=2))
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
