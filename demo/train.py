"""Train the demo from scratch: autoencoder, then text encoder and UNet, then the SafeRedir heads. `python demo/train.py`

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
from demo.generator import train_generator  # noqa: E402
from demo.redirector import METADATA, train_redirector  # noqa: E402
from demo.vocabulary import new_tokenizer  # noqa: E402
from saferedir.checkpoint import save_redirector  # noqa: E402

HERE = ROOT / "demo"


def main() -> None:
    """Run the three stages; each resumes from its checkpoint in `--work`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=HERE / "work", help="checkpoints; an interrupted run resumes here")
    parser.add_argument("--output", type=Path, default=HERE, help="where model/ and redirector.safetensors are written")
    parser.add_argument("--threads", type=int, default=2, help="of torch (%(default)s)")
    parser.add_argument("--compile", action="store_true", help="train the generator by torch.compile; needs a C++ compiler")
    parser.add_argument("--model-only", action="store_true", help="train no heads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()

    def report(stage: str) -> None:
        print(f"{stage} done, {(time.monotonic() - started) / 60:.1f} min in this run", flush=True)

    autoencoder = train_autoencoder(arguments.work)
    report("autoencoder")
    pipeline = train_generator(autoencoder, new_tokenizer(arguments.work), arguments.work, arguments.compile)
    for network in (pipeline.unet, pipeline.vae):
        network.half()
    pipeline.save_pretrained(arguments.output / "model", safe_serialization=True)
    for network in (pipeline.unet, pipeline.vae):
        network.float()
    report("generator")
    if arguments.model_only:
        return
    save_redirector(train_redirector(pipeline, arguments.work), arguments.output / "redirector.safetensors", METADATA)
    report("redirector")


if __name__ == "__main__":
    main()
