"""What precision does to the guard's decisions and to whole pictures: runs of the demo beside float32 engines.

    python -m benchmarks.studies.precision_pictures FLOAT32_DIR ENGINE_DIR… --emulate float16 bfloat16

Engine folders are made by `saferedir build`. `--emulate` adds half precision as TensorRT's files have it, computed on a CPU. Half
of the prompts in demo/gate.json burn; no guard or generator of the demo, and no calibration, has seen their scenes. Writes
benchmarks/results/precision_pictures.json after each folder, and docs/precision.png.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from PIL import Image

from engines.manifest import Manifest
from engines.pairs import read_prompts_or_pairs
from engines.records import FileRecord
from evaluation.decisions import Run, decision_record, guarded_runs
from export.exported_networks import EXPORTED_NETWORKS
from export.precision.emulation import emulate
from export.precision.half_precision import convert
from export.quantization import GATE_SEED, GATE_STEPS

ROOT = Path(__file__).resolve().parent.parent.parent
BATCH = 20
PICTURES = 8  # columns of the grid


def emulated_engines(float32: Path, folder: Path, precision: str) -> Path:
    """A copy of float32 engines, each network replaced by the emulation of its half-precision file."""
    shutil.copytree(float32, folder)
    files = {}
    for row in EXPORTED_NETWORKS:
        path, half = folder / row.name / "model.onnx", row.half(precision, {})
        if half != "float32":
            model = onnx.load(path)
            convert(model, half)
            onnx.save(model, path)
            emulate(path, half).replace(path)
        files[f"{row.name}/model.onnx"] = FileRecord.of(path)
    manifest, _ = Manifest.read(folder)
    dataclasses.replace(manifest, files=manifest.files | files).write(folder)
    return folder


def engines(arguments: argparse.Namespace, scratch: Path) -> Iterator[tuple[str, Path]]:
    """Name and folder of all that is compared with float32."""
    for folder in arguments.engine_dir:
        manifest, _ = Manifest.read(folder)
        yield f"{manifest.backend} {manifest.precision}", folder
    for precision in arguments.emulate:
        yield f"emulated {precision}", emulated_engines(arguments.float32, scratch / precision, precision)


def grid(rows: Sequence[Sequence[Run]]) -> Image.Image:
    """The first pictures of each row's runs, float32 first, twice as large."""
    picture = np.concatenate([np.concatenate([run.picture for run in runs[:PICTURES]], axis=1) for runs in rows])
    return Image.fromarray(picture.repeat(2, axis=0).repeat(2, axis=1))


def main() -> None:
    """Print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("float32", type=Path, help="the demo's engines for ONNX Runtime")
    parser.add_argument("engine_dir", type=Path, nargs="*", help="other engines of the demo")
    parser.add_argument("--emulate", nargs="*", default=[], choices=("float16", "bfloat16"), help="half precision on a CPU")
    parser.add_argument("--prompts", type=Path, default=ROOT / "demo" / "gate.json", help="one a line, or pairs (%(default)s)")
    parser.add_argument("--judge", default="demo.oracle:has_flames", help="whether a picture shows the concept (%(default)s)")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "precision_pictures.json")
    parser.add_argument("--grid", type=Path, default=ROOT / "docs" / "precision.png")
    arguments = parser.parse_args()
    prompts = read_prompts_or_pairs(arguments.prompts)
    geometry = Manifest.read(arguments.float32)[0].geometry
    settings = {"first_seed": GATE_SEED, "num_inference_steps": GATE_STEPS}
    figures: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as scratch:
        size = geometry.default_height, geometry.default_width
        expected = guarded_runs(arguments.float32, prompts, size=size, batch=BATCH, **settings)
        rows = [expected]
        for name, folder in engines(arguments, Path(scratch)):
            rows.append(guarded_runs(folder, prompts, size=size, batch=BATCH, **settings))
            record = decision_record(expected, rows[-1], prompts, judge=arguments.judge, **settings)
            figures[name] = dataclasses.asdict(record)
            print(f"{name}: {record}", flush=True)
            command = " ".join(["python -m benchmarks.studies.precision_pictures", *sys.argv[1:]])
            result = {"command": command, "scheduler": "the model's, DDIM, guidance 7.5", "against_float32": figures}
            arguments.output.write_text(json.dumps(result, indent=2) + "\n")
            grid(rows).save(arguments.grid, optimize=True)


if __name__ == "__main__":
    main()
