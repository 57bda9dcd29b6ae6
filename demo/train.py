"""Train the demo from scratch: autoencoder, then text encoder and UNet, then the SafeRedir heads. `python demo/train.py`

Takes about 70 minutes on two cores: autoencoder 10, generator 27 and 27, trajectories 3, heads 3.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if __package__ in (None, ""):
    sys.path[0] = str(ROOT)

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
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()

    def report(stage: str) -> None:
        print(f"{stage} done, {(time.monotonic() - started) / 60:.1f} min in this run", flush=True)

    autoencoder = train_autoencoder(arguments.work)
    report("autoencoder")
    pipeline = train_generator(autoencoder, new_tokenizer(arguments.work), arguments.work)
    pipeline.unet.half()
    pipeline.save_pretrained(arguments.output / "model", safe_serialization=True)
    pipeline.unet.float()
    report("generator")
    save_redirector(train_redirector(pipeline, arguments.work), arguments.output / "redirector.safetensors", METADATA)
    report("redirector")


if __name__ == "__main__":
    main()
