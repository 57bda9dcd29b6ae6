"""Train the demo from scratch: autoencoder, text encoder, UNet, then a guard for each concept. `python demo/train.py`

Each stage resumes from its checkpoint, so that a run may be stopped at any time (docs/demo.md). Set OMP_WAIT_POLICY=passive and
`--threads 1` on a machine that others use too: threads that wait for each other cost more there than they bring.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if __package__ in (None, ""):
    sys.path[0] = str(ROOT)

import torch  # noqa: E402

from demo.autoencoder import train_autoencoder  # noqa: E402
from demo.generator import Means, train_generator  # noqa: E402
from demo.guards import train_demo_guard  # noqa: E402
from demo.text_encoder import train_text_encoder  # noqa: E402
from demo.vocabulary import new_tokenizer  # noqa: E402
from demo.world import CONCEPTS  # noqa: E402

HERE = ROOT / "demo"
STAGES = ("model", *CONCEPTS)


def main() -> None:
    """Run the stages; each resumes from what is in `--work`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=HERE / "work", help="checkpoints; an interrupted run resumes here")
    parser.add_argument("--output", type=Path, default=HERE, help="where model/ and CONCEPT.safetensors are written")
    parser.add_argument("--threads", type=int, default=2, help="of torch (%(default)s)")
    parser.add_argument("--compile", action="store_true", help="train the UNet by torch.compile; needs a C++ compiler")
    parser.add_argument("--device", default="cpu", help="of the UNet's and the guards' training (%(default)s)")
    parser.add_argument("--processes", type=int, default=1, help="that train autoencoder and UNet together (%(default)s)")
    parser.add_argument("--workers", type=int, default=0, help="more processes, which draw the batches (%(default)s: none)")
    parser.add_argument("--stage", nargs="+", choices=STAGES, default=STAGES, help="the model or a concept's guard (default: all)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    for stage in arguments.stage:
        started = time.monotonic()
        if stage == "model":
            means = Means(arguments.device, arguments.processes, arguments.workers, arguments.compile)
            train_model(arguments.work, arguments.output / "model", means)
        else:
            checkpoint = arguments.output / f"{stage}.safetensors"
            train_demo_guard(stage, arguments.output / "model", arguments.work / stage, checkpoint, arguments.device)
        print(f"{stage}: {(time.monotonic() - started) / 60:.1f} min in this run", flush=True)


def train_model(work: Path, output: Path, means: Means) -> None:
    """Train the model's networks and write them, UNet and autoencoder in float16."""
    autoencoder, tokenizer = train_autoencoder(work, means.processes), new_tokenizer(work)
    pipeline = train_generator(autoencoder, train_text_encoder(tokenizer, work), tokenizer, work, means)
    for network in (pipeline.unet, pipeline.vae):
        network.half()
    pipeline.save_pretrained(output, safe_serialization=True)


if __name__ == "__main__":
    main()
