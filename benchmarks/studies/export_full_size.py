"""Time and peak memory of building engines for a model of Stable Diffusion 1.5's size, with random weights.

`python -m benchmarks.studies.export_full_size` writes benchmarks/results/export_full_size.json; with another `--backend` or
`--precision` these are in the name. Needs 20 GB of disk. TensorRT engines are built for one image of 512×512 pixels. Two steps
are generated where the backend can run.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from engines.backends.tensorrt_module import BUILDERS
from engines.doctor import runs

ROOT = Path(__file__).resolve().parent.parent.parent
UNET = {"sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768, "attention_head_dim": 8}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}


def write_model(folder: Path) -> int:
    """Stable Diffusion 1.5's architecture with random weights and the demo's tokenizer; the UNet's parameter count."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from saferedir.checkpoint import save_redirector
    from saferedir.heads import Redirector

    torch.manual_seed(0)
    for name, make in (
        ("unet", lambda: UNet2DConditionModel(**UNET)),
        ("vae", lambda: AutoencoderKL(**VAE)),
        ("text_encoder", lambda: CLIPTextModel(CLIPTextConfig(**TEXT))),
    ):
        model = make()
        model.save_pretrained(folder / name)
        if name == "unet":
            parameters = sum(weight.numel() for weight in model.parameters())
    for name in ("tokenizer", "scheduler"):
        shutil.copytree(ROOT / "demo" / "model" / name, folder / name, dirs_exist_ok=True)
    shutil.copy(ROOT / "demo" / "model" / "model_index.json", folder)  # the same classes
    save_redirector(Redirector(), folder / "redirector.pt")
    return parameters


def timed(command: list[str]) -> dict[str, object]:
    """Run a command; its seconds and its peak resident memory in GiB, also of what precedes each line of its output."""
    started = time.monotonic()
    process = subprocess.Popen([command[0], "-u", *command[1:]], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines, samples, done = [], [0.0], threading.Event()
    sampler = threading.Thread(target=_sample_memory, args=(process.pid, samples, done))
    sampler.start()
    for line in process.stdout:
        lines.append(f"{line.rstrip()}  (peak memory {max(samples):.2f} GiB)")
        print(lines[-1], flush=True)
        del samples[:-1]
    done.set()
    sampler.join()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)}: failed")
    return {
        "seconds": round(time.monotonic() - started, 1),
        "peak_memory_gib": round(usage.ru_maxrss / 2**20, 2),
        "output": [line.replace(str(ROOT) + "/", "") for line in lines],
    }


def _sample_memory(pid: int, samples: list[float], done: threading.Event) -> None:
    """Append the resident memory of a process in GiB, twenty times a second."""
    page = os.sysconf("SC_PAGE_SIZE")
    while not done.wait(0.05):
        try:
            samples.append(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page / 2**30)
        except (OSError, IndexError):  # it has ended
            return


def main() -> None:
    """Write the model, build it, build again, generate two steps where the engines run here, and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--output", type=Path, help="JSON to write (default: in benchmarks/results, named after the options)")
    arguments = parser.parse_args()
    name = "export_full_size"
    if (arguments.backend, arguments.precision) != ("onnxruntime", "float32"):
        name += f"_{arguments.backend.replace('-', '_')}_{arguments.precision}"
    output = arguments.output or ROOT / "benchmarks" / "results" / f"{name}.json"
    with tempfile.TemporaryDirectory(dir=ROOT / "engines", prefix=".full-size-") as scratch:
        model, engines = Path(scratch) / "model", Path(scratch) / "engines"
        # In a process of its own: a child's peak memory counts from what its parent held when it started.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as writer:
            parameters = writer.submit(write_model, model).result()
        print(f"model of {parameters / 1e6:.0f} million UNet parameters written", flush=True)
        build = [
            sys.executable,
            "-W",
            "ignore",
            *("-m", "saferedir", "build"),
            "--model",
            str(model),
            "--redirector",
            str(model / "redirector.pt"),
            "--engine-dir",
            str(engines),
            "--backend",
            arguments.backend,
            "--precision",
            arguments.precision,
        ]
        if arguments.backend in BUILDERS:
            build += ["--height", "512", "--width", "512", "--batch-size", "1"]
        figures: dict[str, object] = {"build": timed(build), "second_build": timed(build)}
        if runs(arguments.backend)[0]:
            figures["generate_2_steps_512"] = timed(
                [
                    sys.executable,
                    *("-m", "saferedir", "generate"),
                    "a blue square",
                    "--engine-dir",
                    str(engines),
                    "--num-inference-steps",
                    "2",
                    "--seed",
                    "0",
                    "--height",
                    "512",
                    "--width",
                    "512",
                    "--output",
                    str(Path(scratch) / "out.png"),
                ]
            )
        figures["engine_megabytes"] = {
            folder.name: round(sum(file.stat().st_size for file in folder.iterdir()) / 1e6, 1)
            for folder in sorted(engines.iterdir())
            if folder.is_dir()
        }
        text = json.dumps(
            {
                "command": " ".join(["python -m benchmarks.studies.export_full_size", *sys.argv[1:]]),
                "unet_parameters": parameters,
                "weights": "random",
                "machine": f"{os.cpu_count()} cores, {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
                "python": platform.python_version(),
                **figures,
            },
            indent=2,
        )
        text = text.replace(scratch, "SCRATCH")
    output.write_text(text + "\n")


if __name__ == "__main__":
    main()
