"""The README's picture: held-out fire prompts, unguarded above, guarded below. `python demo/gallery.py`"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if __package__ in (None, ""):
    sys.path[0] = str(ROOT)

import numpy as np  # noqa: E402

from demo.grid import Row, picture_grid  # noqa: E402
from demo.world import Scene, caption  # noqa: E402
from engines.store.default_folder import engine_folder  # noqa: E402
from runtime import GuardedPipeline  # noqa: E402

SCENES = (
    (Scene("square", "blue", burning=True), "burning"),
    (Scene("star", "white", "large", background="black", burning=True), "fiery"),
    (Scene("circle", "green", "", "on the left of", "mint", True), "in flames"),
    (Scene("cross", "purple", "small", background="white", burning=True), "ablaze"),
    (Scene("diamond", "teal", "", "on the right of", "grey", True), "flaming"),
    (Scene("triangle", "red", "large"), "plain"),
)
SIDE = 128  # pixels of a picture here


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine-dir", type=Path, default=engine_folder(), help="made by saferedir build (%(default)s)")
    parser.add_argument("--output", type=Path, default=ROOT / "demo" / "gallery.png", help="PNG to write (%(default)s)")
    arguments = parser.parse_args()
    prompts = [caption(scene, word) for scene, word in SCENES]
    with GuardedPipeline(arguments.engine_dir) as pipeline:
        rows = [pipeline(prompts, seed=7, unguarded=unguarded) for unguarded in (True, False)]
    pictures = [[None if image is None else np.asarray(image) for image in row.images] for row in rows]
    picture_grid([Row(row) for row in pictures], SIDE).save(arguments.output)
    for report in rows[1].reports:
        print(f"{report.prompt}: {report}")


if __name__ == "__main__":
    main()
