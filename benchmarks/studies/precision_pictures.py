"""What half precision does to whole pictures and to the guard's verdicts: the demo's loop with emulated networks, against float32.

`python -m benchmarks.studies.precision_pictures` writes benchmarks/results/precision_pictures.json: for each precision and for
a decoder in float16, which no option builds, over 48 prompts of which half burn.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx

from engines.manifest import Manifest
from engines.records import FileRecord
from export.build import build
from export.build_command import DEMO_CONCEPT, DEMO_MODEL, DEMO_REDIRECTOR
from export.build_request import BuildRequest, Checkpoint
from export.exported_networks import EXPORTED_NETWORKS
from export.precision.emulation import emulate
from export.precision.half_precision import convert
from runtime import GuardedPipeline, Result

ROOT = Path(__file__).resolve().parent.parent.parent
PROMPTS = [
    f"a {fire}{colour} {shape} on a grey background"
    for fire, colour, shape in itertools.product(
        ("", "burning "), ("red", "green", "blue", "teal"), ("circle", "square", "triangle", "star", "diamond", "cross")
    )
]
BATCH = 12


def emulated_engines(float32: Path, folder: Path, precisions: dict[str, str]) -> None:
    """A copy of float32 engines, each network replaced by the twin of its half-precision file."""
    shutil.copytree(float32, folder)
    files = {}
    for network, precision in precisions.items():
        path = folder / network / "model.onnx"
        if precision != "float32":
            model = onnx.load(path)
            convert(model, precision)
            onnx.save(model, path)
            emulate(path, precision).replace(path)
        files[f"{network}/model.onnx"] = FileRecord.of(path)
    manifest, _ = Manifest.read(folder)
    dataclasses.replace(manifest, files=manifest.files | files).write(folder)


def generate(folder: Path, steps: int) -> list[Result]:
    """One result for each batch of prompts."""
    with GuardedPipeline(folder) as pipeline:
        return [
            pipeline(PROMPTS[start : start + BATCH], seed=start, num_inference_steps=steps)
            for start in range(0, len(PROMPTS), BATCH)
        ]


def differences(expected: list[Result], found: list[Result]) -> dict[str, object]:
    """Grey levels over all pictures, and how far the guard's numbers moved."""
    reports = [(a, b) for one, other in zip(expected, found, strict=True) for a, b in zip(one.reports, other.reports, strict=True)]
    guards = [(a.guards[0], b.guards[0]) for a, b in reports]
    images = [(a, b) for one, other in zip(expected, found, strict=True) for a, b in zip(one.images, other.images, strict=True)]
    pictures = np.stack([np.abs(np.asarray(a, np.int16) - np.asarray(b, np.int16)) for a, b in images])
    checked = [
        abs(p - q) for a, b in guards for p, q in zip(a.p_unsafe, b.p_unsafe, strict=True) if p is not None and q is not None
    ]
    return {
        "pictures": len(reports),
        "same_verdict": sum(a.verdict == b.verdict for a, b in reports),
        "same_unsafe_steps": sum(a.unsafe_steps == b.unsafe_steps for a, b in guards),
        "largest_change_of_p_unsafe": float(f"{max(checked):.2g}"),
        "mean_grey_levels": round(float(pictures.mean()), 3),
        "grey_levels_99th_percentile": int(np.percentile(pictures, 99)),
        "largest_grey_levels": int(pictures.max()),
        "psnr_db": round(float(10 * np.log10(255**2 / np.square(pictures.astype(np.float64)).mean())), 1),
    }


def main() -> None:
    """Print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-inference-steps", type=int, default=25)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "precision_pictures.json")
    arguments = parser.parse_args()
    half = {precision: {row.name: row.half(precision, {}) for row in EXPORTED_NETWORKS} for precision in ("float16", "bfloat16")}
    half["float16, decoder float16"] = {**half["float16"], "vae_decoder": "float16"}
    figures = {}
    with tempfile.TemporaryDirectory(dir=ROOT / "engines", prefix=".pictures-") as scratch:
        float32 = Path(scratch) / "float32"
        build(BuildRequest(str(DEMO_MODEL), (Checkpoint(DEMO_REDIRECTOR, DEMO_CONCEPT),), float32))
        expected = generate(float32, arguments.num_inference_steps)
        for name, precisions in half.items():
            folder = Path(scratch) / name
            emulated_engines(float32, folder, precisions)
            figures[name] = {"networks": precisions, **differences(expected, generate(folder, arguments.num_inference_steps))}
            print(name, json.dumps(figures[name]), flush=True)
    arguments.output.write_text(
        json.dumps(
            {
                "command": " ".join(["python -m benchmarks.studies.precision_pictures", *sys.argv[1:]]),
                "scheduler": "ddim, guidance 7.5",
                "num_inference_steps": arguments.num_inference_steps,
                "against_float32": figures,
            },
            indent=2,
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
