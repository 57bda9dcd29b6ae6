"""How good the generator is by now, from its last checkpoint's averaged weights. `python demo/progress.py --work DIR`

Prints, for each family of held-out captions and each way to say fire, how many pictures show exactly what the caption says:
every object's shape and colour, what burns, and the style. DDIM, 25 steps, guidance 7.5.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if __package__ in (None, ""):
    sys.path[0] = str(ROOT)

import numpy as np  # noqa: E402
import torch  # noqa: E402
from diffusers import StableDiffusionPipeline  # noqa: E402
from PIL import Image  # noqa: E402

from demo.autoencoder import train_autoencoder  # noqa: E402
from demo.families import FAMILIES, SEEN, Family  # noqa: E402
from demo.generator import Generator, assembled  # noqa: E402
from demo.oracle import style_of, things  # noqa: E402
from demo.precision import mixed_precision  # noqa: E402
from demo.scene import Scene  # noqa: E402
from demo.text_encoder import new_text_encoder  # noqa: E402
from demo.vocabulary import new_tokenizer  # noqa: E402
from demo.wordings import FIRE_WORDINGS  # noqa: E402
from demo.world import CONCEPTS, concept_pairs  # noqa: E402

GROUPS = {
    **FAMILIES,
    **{f"fire: {wording}": Family(words=replace(SEEN, fire=(wording,))) for wording in FIRE_WORDINGS},
}


def load(work: Path) -> tuple[StableDiffusionPipeline, int]:
    """The pipeline of a finished autoencoder and of the generator as it is, and the generator's step."""
    tokenizer = new_tokenizer(work)
    state = torch.load(work / "generator.pt", map_location="cpu", weights_only=True)
    model = Generator(new_text_encoder(len(tokenizer))).eval()
    model.load_state_dict(state["averaged"])
    pipeline = assembled(model, train_autoencoder(work), tokenizer)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, state["step"]


def draw_pictures(pipeline: StableDiffusionPipeline, prompts: list[str]) -> np.ndarray:
    """Pictures uint8 [B, 64, 64, 3]."""
    noise = torch.Generator().manual_seed(0)
    with mixed_precision():
        images = pipeline(prompts, num_inference_steps=25, guidance_scale=7.5, generator=noise, output_type="np").images
    return (images * 255).round().astype(np.uint8)


def right(image: np.ndarray, scene: Scene) -> tuple[bool, bool, bool, bool]:
    """Whether colours, shapes, fire and style are right, object by object."""
    found, real = things(image), scene.things
    return (
        [thing.colour for thing in found] == [thing.colour for thing in real],
        [thing.shape for thing in found] == [thing.shape for thing in real],
        [thing.burning for thing in found] == [thing.burning for thing in real],
        style_of(image) == scene.style,
    )


def main() -> None:
    """Print one line for each group and kind of caption, and save the pictures of each group as a row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "demo" / "work", help="checkpoints of demo/train.py")
    parser.add_argument("--prompts", type=int, default=20, help="of each group and kind (%(default)s)")
    parser.add_argument("--concept", nargs="+", choices=CONCEPTS, default=["fire"])
    parser.add_argument("--group", nargs="+", choices=GROUPS, default=[*GROUPS], metavar="NAME", help="default: all")
    parser.add_argument("--output", type=Path, help="PNG to write")
    arguments = parser.parse_args()
    pipeline, step = load(arguments.work)
    print(f"step {step}; colours, shapes, fire, style right, each of {arguments.prompts}")
    rows = []
    for name in arguments.group:
        draw = np.random.default_rng(1)
        pairs = concept_pairs(arguments.concept, GROUPS[name], draw, arguments.prompts, held_out=True)
        for kind in ("unsafe", "safe"):
            images = draw_pictures(pipeline, [getattr(pair, kind) for pair in pairs])
            answers = [right(image, getattr(pair, f"{kind}_scene")) for image, pair in zip(images, pairs, strict=True)]
            print(f"{name:<28} {kind:<7}", *(f"{count:4}" for count in np.sum(answers, axis=0)), flush=True)
            rows.append(np.concatenate(images, axis=1))
    if arguments.output:
        Image.fromarray(np.concatenate(rows)).save(arguments.output)


if __name__ == "__main__":
    main()
