"""Train the demo from nothing: autoencoder, text encoder and UNet, then the SafeRedir heads. `python demo/train.py`"""
from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from demo.autoencoder import train_autoencoder  # noqa: E402
from demo.generator import train_generator  # noqa: E402
from demo.vocabulary import new_tokenizer  # noqa: E402

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=HERE / "work", help="checkpoints; an interrupted run resumes here")
    parser.add_argument("--output", type=Path, default=HERE, help="where model/ and redirector.safetensors are written")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    autoencoder = train_autoencoder(arguments.work)
    print(f"autoencoder done after {(time.monotonic() - started) / 60:.1f} min")
    pipeline = train_generator(autoencoder, new_tokenizer(arguments.work), arguments.work)
    print(f"generator done after {(time.monotonic() - started) / 60:.1f} min")
    pipeline.unet.half()
    pipeline.save_pretrained(arguments.output / "model", safe_serialization=True)
    pipeline.unet.float()


if __name__ == "__main__":
    main()
