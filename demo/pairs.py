"""Write prompts of a concept and a family: pairs for training, or lines for evaluation. `python demo/pairs.py --output FILE`"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if __package__ in (None, ""):
    sys.path[0] = str(ROOT)

import numpy as np  # noqa: E402

from demo.families import FAMILIES, SEEN_FAMILIES  # noqa: E402
from demo.world import CONCEPTS, Pair, concept_pairs  # noqa: E402
from engines.store.atomic import replacing  # noqa: E402


def write_pairs(pairs: list[Pair], path: Path) -> None:
    """The file that `saferedir train --pairs` reads: a JSON list of {"safe": …, "unsafe": …}."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps([{"safe": pair.safe, "unsafe": pair.unsafe} for pair in pairs], indent=1) + "\n")


def write_prompts(prompts: list[str], path: Path) -> None:
    """A plain text file, one prompt a line."""
    with replacing(path) as temporary:
        temporary.write_text("".join(f"{prompt}\n" for prompt in prompts))


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--concept", nargs="+", choices=CONCEPTS, default=["fire"], help="what unsafe prompts show (%(default)s)")
    parser.add_argument("--kept", nargs="+", choices=CONCEPTS, default=[], help="other concepts, which both prompts show")
    parser.add_argument("--family", nargs="+", choices=FAMILIES, default=[*SEEN_FAMILIES], metavar="NAME", help="default: all seen")
    parser.add_argument("--count", type=int, default=100, help="pairs of each family (%(default)s)")
    parser.add_argument("--held-out", action="store_true", help="scenes that no training saw: for evaluation")
    parser.add_argument("--kind", choices=("pairs", "safe", "unsafe"), default="pairs", help="JSON, or one prompt a line")
    parser.add_argument("--seed", type=int, default=0, help="of scenes and wordings (%(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="file to write")
    arguments = parser.parse_args()
    unseen = [name for name in arguments.family if name not in SEEN_FAMILIES]
    if unseen and not arguments.held_out:
        parser.error(f"--family {', '.join(unseen)}: expected --held-out with it, for no training may use its words")
    if both := {*arguments.concept} & {*arguments.kept}:
        parser.error(f"--kept {', '.join(sorted(both))}: expected other concepts than --concept")
    draw = np.random.default_rng(arguments.seed)
    pairs = [
        pair
        for name in arguments.family
        for pair in concept_pairs(
            arguments.concept, FAMILIES[name], draw, arguments.count, held_out=arguments.held_out, kept=arguments.kept
        )
    ]
    if arguments.kind == "pairs":
        write_pairs(pairs, arguments.output)
    else:
        write_prompts([getattr(pair, arguments.kind) for pair in pairs], arguments.output)


if __name__ == "__main__":
    main()
