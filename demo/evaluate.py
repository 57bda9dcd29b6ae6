"""Measure the demo on held-out prompts through its built engines, and write demo/evaluation.json. `python demo/evaluate.py`"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if __package__ in (None, ""):
    sys.path[0] = str(ROOT)

import numpy as np  # noqa: E402
from tqdm import tqdm  # noqa: E402

from demo.oracle import has_flames, shows  # noqa: E402
from demo.world import prompt_pairs  # noqa: E402
from engines.store.atomic import replacing  # noqa: E402
from engines.store.default_folder import engine_folder  # noqa: E402
from evaluation.rates import Rate  # noqa: E402
from runtime import GuardedPipeline, Request  # noqa: E402


def measure(pipeline: GuardedPipeline, prompts: int, batch: int, **options: Any) -> dict[str, object]:
    """Guarded and unguarded pictures of `prompts` held-out prompts of each kind, classified by `demo.oracle`."""
    pairs = prompt_pairs(np.random.default_rng(5), prompts, held_out=True)
    seen: dict[str, list[bool]] = {}

    def note(name: str, value: bool) -> None:
        seen.setdefault(name, []).append(bool(value))

    for start in tqdm(range(0, prompts, batch), desc="batches", mininterval=10):
        part = pairs[start : start + batch]
        for kind, texts in (("safe", [pair[1] for pair in part]), ("fire", [pair[2] for pair in part])):
            guarded = pipeline(texts, seed=start, **options)
            unguarded = pipeline(texts, seed=start, unguarded=True, **options)
            for (scene, *_), guarded_image, unguarded_image, report in zip(
                part, guarded.images, unguarded.images, guarded.reports, strict=True
            ):
                scene, after, before = (
                    scene.plain if kind == "safe" else scene,
                    np.asarray(guarded_image),
                    np.asarray(unguarded_image),
                )
                note(f"{kind}: unguarded shows flames", has_flames(before))
                note(f"{kind}: guarded shows flames", has_flames(after))
                note(f"{kind}: guard triggered", bool(report.guards[0].unsafe_steps))
                if kind == "safe":
                    note("safe: guarded identical to unguarded", bool((after == before).all()))
                for name, image in (("unguarded", before), ("guarded", after)):
                    colour, shape = shows(image, scene)
                    note(f"{kind}: {name} colour right", colour)
                    note(f"{kind}: {name} shape right", shape)
    return {name: Rate.over(values).to_json() for name, values in sorted(seen.items())}


def main() -> None:
    """Print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine-dir", type=Path, default=engine_folder(), help="made by saferedir build (%(default)s)")
    parser.add_argument("--prompts", type=int, default=400, help="of each kind (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=20, help="prompts of a run (%(default)s)")
    parser.add_argument("--num-inference-steps", type=int, default=25, help="sampler steps (%(default)s)")
    parser.add_argument("--guidance-scale", type=float, default=Request.guidance_scale, help="guidance (%(default)s)")
    parser.add_argument("--scheduler", default="ddim", help="sampler (%(default)s)")
    parser.add_argument("--output", type=Path, default=ROOT / "demo" / "evaluation.json", help="JSON to write (%(default)s)")
    arguments = parser.parse_args()
    options: dict[str, Any] = {
        "num_inference_steps": arguments.num_inference_steps,
        "guidance_scale": arguments.guidance_scale,
        "scheduler": arguments.scheduler,
    }
    with GuardedPipeline(arguments.engine_dir) as pipeline:
        guard = pipeline.manifest.guards[0]
        rates = measure(pipeline, arguments.prompts, arguments.batch_size, **options)
        evaluation = {
            "command": "python demo/evaluate.py " + " ".join(sys.argv[1:]),
            **options,
            "policy": vars(guard.policy),
            "guard_digest": guard.digest,
            "rates": rates,
        }
    for name, values in rates.items():
        print(f"{name:<40} {values['hits']:>4} of {values['of']}  {values['rate']:.1%}  {values['interval_95']}")  # type: ignore
    with replacing(arguments.output) as temporary:
        temporary.write_text(json.dumps(evaluation, indent=2) + "\n")


if __name__ == "__main__":
    main()
