"""torch.onnx's two exporters and optimum's on the demo's UNet: seconds to export, nodes, and speed under ONNX Runtime.

Latencies are taken in turns, one call of each, so that all meet the same machine. Needs onnxscript, optimum and optimum-onnx
besides the export's requirements. `python -m benchmarks.studies.exporters` writes benchmarks/results/exporters.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

from engines.networks import NETWORKS, OPSET
from export.onnx_file import EXAMPLE_SIZES, example, export_network
from export.sources.load import load_component
from export.sources.locate import find_model
from export.wrappers import Unet

ROOT = Path(__file__).resolve().parent.parent.parent
SPEC = NETWORKS["unet"]


def export_trace(module: Unet, embed_dim: int, path: Path) -> None:
    """As the build does, but every row by itself, as the others have it."""
    export_network(module, SPEC, {"D": embed_dim}, path)


def export_program(module: Unet, embed_dim: int, path: Path) -> None:
    """Through torch.export, without guidance: latent sizes as multiples of four, else each resolution becomes a floor division.

    torch.export itself finds that the UNet's rows must stay below 64, and refuses a wider range.
    """
    batch, height, width = (torch.export.Dim(name, min=1, max=63) for name in ("B", "h", "w"))
    axes = {"sample": {0: batch, 2: 4 * height, 3: 4 * width}, "timestep": {0: batch}, "encoder_hidden_states": {0: batch}}
    inputs = example(SPEC, {**EXAMPLE_SIZES, "D": embed_dim})
    program = torch.onnx.export(
        torch.export.export(module.eval().requires_grad_(False), (), inputs, dynamic_shapes=axes),
        dynamo=True,
        opset_version=OPSET,
        verbose=False,
        input_names=[tensor.name for tensor in SPEC.inputs],
        output_names=[tensor.name for tensor in SPEC.outputs],
    )
    assert program is not None
    program.save(path)


def export_optimum(module: Unet, embed_dim: int, path: Path) -> None:
    """Through optimum, which has a config of names and axes for diffusers' UNet and traces it with torch.onnx."""
    from optimum.exporters.onnx import export
    from optimum.exporters.onnx.model_configs import UNetOnnxConfig

    for option in ("text_encoder_projection_dim", "time_cond_proj_dim"):
        setattr(module.model.config, option, None)
    module.model.config.requires_aesthetics_score = False
    export(module.model, UNetOnnxConfig(module.model.config, task="semantic-segmentation"), path, opset=OPSET)


def latencies(
    sessions: dict[str, onnxruntime.InferenceSession], inputs: dict[str, np.ndarray], rounds: int
) -> tuple[dict[str, list[float]], dict[str, np.ndarray]]:
    """Milliseconds of each call, sessions in turns after ten unmeasured rounds, and the last outputs."""
    times: dict[str, list[float]] = {name: [] for name in sessions}
    feeds = {
        name: {
            value.name: inputs[value.name].reshape(-1 if len(value.shape) == 1 else inputs[value.name].shape)
            for value in session.get_inputs()
        }
        for name, session in sessions.items()
    }
    outputs = {}
    for _ in range(rounds + 10):
        for name, session in sessions.items():
            started = time.perf_counter()
            outputs[name] = session.run(None, feeds[name])[0]
            times[name].append(1000 * (time.perf_counter() - started))
    return {name: milliseconds[10:] for name, milliseconds in times.items()}, outputs


EXPORTERS = {"torch.onnx tracing": export_trace, "torch.onnx from torch.export": export_program, "optimum": export_optimum}


def main() -> None:
    """Print and write the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "exporters.json")
    arguments = parser.parse_args()
    source = find_model(str(ROOT / "demo" / "model"))
    width = source.geometry.embed_dim
    figures: dict[str, dict[str, object]] = {}
    sessions: dict[str, onnxruntime.InferenceSession] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, run in EXPORTERS.items():
            module, path = Unet(load_component(source, "unet")), Path(scratch) / f"{len(sessions)}.onnx"
            started = time.perf_counter()
            run(module, width, path)
            seconds = time.perf_counter() - started
            options = onnxruntime.SessionOptions()
            options.log_severity_level, options.optimized_model_filepath = 3, str(path.with_suffix(".optimized"))
            sessions[name] = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            figures[name] = {
                "export_seconds": round(seconds, 1),
                "nodes": len(onnx.load(path).graph.node),
                "nodes_optimized": len(onnx.load(options.optimized_model_filepath).graph.node),
            }
    inputs = {key: tensor.numpy() for key, tensor in example(SPEC, {"B": 2, "CB": 2, "H": 16, "W": 16, "D": width}).items()}
    times, outputs = latencies(sessions, inputs, arguments.rounds)
    for name, milliseconds in times.items():
        low, middle, high = np.percentile(milliseconds, [25, 50, 75])
        figures[name] |= {"median_ms": round(middle, 2), "quartiles_ms": [round(low, 2), round(high, 2)]}
    first = next(iter(times))
    result = {
        "command": "python -m benchmarks.studies.exporters",
        "rounds": arguments.rounds,
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "exporters": figures,
        "ratio_of_medians_to_the_first": {
            name: round(float(np.median(milliseconds) / np.median(times[first])), 3) for name, milliseconds in times.items()
        },
        "largest_difference_from_the_first": {
            name: float(np.abs(output - outputs[first]).max()) for name, output in outputs.items()
        },
    }
    print(json.dumps(result, indent=2))
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
