"""Guards of the demo with one part of their heads switched off, measured like the whole one. `python demo/ablations.py`

Each is the shipped checkpoint with some weights set so that a part says the same whatever it sees; nothing is trained again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if __package__ in (None, ""):
    sys.path[0] = str(ROOT)

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from demo.families import FAMILIES  # noqa: E402
from demo.measure import OPTIONS, Measurement  # noqa: E402
from demo.questions import Question  # noqa: E402
from demo.resumed import keep, resumed  # noqa: E402
from demo.world import CONCEPTS  # noqa: E402
from engines.store.digests import file_digest  # noqa: E402
from runtime import GuardedPipeline  # noqa: E402
from saferedir.checkpoint import load_redirector, save_redirector  # noqa: E402
from saferedir.cli import main as saferedir  # noqa: E402
from saferedir.heads import Redirector  # noqa: E402
from saferedir.metadata import read_metadata  # noqa: E402

FULL = 30.0  # a logit whose sigmoid is 1 in float32


def whole(heads: Redirector) -> None:
    """Nothing is switched off."""


def _says(layer: nn.Module, value: float) -> None:
    """Let a linear layer give `value`, whatever it sees."""
    assert isinstance(layer, nn.Linear)
    nn.init.zeros_(layer.weight)
    nn.init.constant_(layer.bias, value)


def without_mask(heads: Redirector) -> None:
    """Every token is shifted as if the mask held it responsible."""
    _says(heads.mask_predictor.predictor[3], FULL)


def without_alpha(heads: Redirector) -> None:
    """Every token is shifted by the full length of its embedding."""
    _says(heads.alpha_predictor.net[2], FULL)


def random_direction(heads: Redirector) -> None:
    """The shift's direction is still a function of what the heads see, but a random one."""
    heads.delta_head.up.weight.copy_(torch.randn(heads.delta_head.up.weight.shape, generator=torch.Generator().manual_seed(0)))


def _without_columns(layer: nn.Module, columns: slice) -> None:
    """Let a linear layer not see some of its inputs."""
    assert isinstance(layer, nn.Linear)
    weight: Tensor = layer.weight
    weight[:, columns] = 0


def classifier_without_prompt(heads: Redirector) -> None:
    """The classifier sees latents and timestep alone."""
    _without_columns(heads.classifier[0], slice(heads.config.joint_features, None))


def classifier_without_latents(heads: Redirector) -> None:
    """The classifier sees the prompt and the timestep alone; where it looks in the prompt still depends on the latents."""
    _without_columns(heads.classifier[0], slice(0, heads.config.latent_features))


ABLATIONS: dict[str, tuple[Callable[[Redirector], None], tuple[str, ...]]] = {  # the change, and options of the build
    "whole": (whole, ()),
    "mask again": (whole, ("--mask-again",)),
    "without mask": (without_mask, ()),
    "alpha 1": (without_alpha, ()),
    "random direction": (random_direction, ()),
    "classifier without prompt": (classifier_without_prompt, ()),
    "classifier without latents": (classifier_without_latents, ()),
}


@torch.no_grad()
def write_ablated(checkpoint: Path, change: Callable[[Redirector], None], output: Path) -> None:
    """The checkpoint with a part switched off; without canaries, which it could not pass."""
    heads, metadata = load_redirector(checkpoint), read_metadata(checkpoint)
    change(heads)
    save_redirector(heads, output, replace(metadata, canaries=[]))


def main() -> None:
    """Build each one's engines in a temporary folder, and write what is found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concept", choices=CONCEPTS, default="fire", help="whose guard (%(default)s)")
    parser.add_argument("--backend", default="openvino", help="of the engines (%(default)s)")
    parser.add_argument("--prompts", type=int, default=400, help="captions of each kind for a line (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=20, help="pictures of a run (%(default)s)")
    parser.add_argument("--output", type=Path, default=ROOT / "demo" / "ablations.json", help="JSON to go on with (%(default)s)")
    arguments = parser.parse_args()
    demo, concept = ROOT / "demo", arguments.concept
    shipped = demo / f"{concept}.safetensors"
    about = {
        "command": "python demo/ablations.py",
        "concept": concept,
        "options": OPTIONS,
        "backend": arguments.backend,
        "guard": file_digest(shipped),
        "prompts": arguments.prompts,
    }
    document = resumed(arguments.output, about, "lines")
    measured = {line["name"] for line in document["lines"]}
    with tempfile.TemporaryDirectory() as work:
        checkpoint, engines = Path(work) / f"{concept}.safetensors", Path(work) / "engines"
        for name, (change, options) in ABLATIONS.items():
            if name in measured:
                continue
            write_ablated(shipped, change, checkpoint)
            given = ["--model", str(demo / "model"), "--redirector", str(checkpoint), "--backend", arguments.backend]
            if saferedir(["build", *given, "--engine-dir", str(engines), *options]):
                sys.exit(f"{name}: the build failed")
            with GuardedPipeline(engines) as pipeline:
                question = Question("ablations", name, (concept,), tuple(FAMILIES.values()))
                found = Measurement(pipeline, arguments.prompts, arguments.batch_size)(question)
            document["lines"].append({"name": name, **found})
            keep(document, arguments.output)


if __name__ == "__main__":
    main()
