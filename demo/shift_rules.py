"""How the shifts of several concepts combine: their sum, as the guard has it, and two other rules, on the demo's three guards.

`python demo/shift_rules.py --output FILE` builds engines for each rule and measures captions with two and three
concepts (`demo.questions.together`). Rules that the file has are left out.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
if __package__ in (None, ""):
    sys.path[0] = str(ROOT)

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

import runtime.loop  # noqa: E402
import saferedir.guard  # noqa: E402
from demo.built import built  # noqa: E402
from demo.measure import Measurement  # noqa: E402
from demo.questions import together  # noqa: E402
from demo.world import CONCEPTS  # noqa: E402
from engines.store.atomic import replacing  # noqa: E402
from saferedir.guard import Guard  # noqa: E402

BATCH = 20


class StrongestFirst(Guard):
    """Of the concepts found unsafe at a step only the one with the highest p_unsafe acts; the others are checked at the next."""

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        original_embeds: Tensor,
        shifts: Tensor,
        countdown: Tensor,
        alpha_scale: Tensor,
        threshold: Tensor,
        replace_steps: Tensor,
        delayed: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        numbers = alpha_scale, threshold, replace_steps, delayed
        *_, p_unsafe, unsafe = super().forward(sample, timestep, original_embeds, shifts, countdown, *numbers)
        found = torch.where(unsafe, p_unsafe, -1.0)
        strongest = found >= found.max(dim=0, keepdim=True).values
        waiting = torch.where(unsafe & ~strongest, torch.ones_like(countdown), countdown)  # a step, then a check
        embeds, following, after, *_ = super().forward(sample, timestep, original_embeds, shifts, waiting, *numbers)
        # The runtime compares what is said: one that waits has not been found unsafe yet.
        said = torch.where(strongest, p_unsafe, torch.minimum(p_unsafe, threshold))
        return embeds, following, after, said, unsafe & strongest


class Renormalised(Guard):
    """For each token the sum of the shifts is cut to the length of the longest."""

    def _total(self, shifts: Tensor, rows: tuple[int, ...]) -> Tensor:
        total = shifts.sum(dim=0)
        longest = torch.linalg.vector_norm(shifts, dim=-1, keepdim=True).amax(dim=0)
        length = torch.linalg.vector_norm(total, dim=-1, keepdim=True)
        return total * torch.clamp(longest / torch.clamp(length, min=1e-12), max=1.0)


RULES = {"sum": Guard, "strongest first": StrongestFirst, "renormalised": Renormalised}


def measure(rule: type[Guard], prompts: int, backend: str, precision: str) -> list[dict[str, Any]]:
    """The lines of `demo.questions.together` for a rule, as `demo/evidence.py` has them."""
    # While every countdown runs, the loop adds the shifts itself: here the rule is asked.
    asked = mock.patch.object(runtime.loop, "_when_due", lambda guard, **arrays: guard)
    ruled = mock.patch.object(saferedir.guard, "Guard", rule)
    with asked, ruled, built(CONCEPTS, "", backend, precision, None) as pipeline:
        measurement = Measurement(pipeline, prompts, BATCH)
        return [{"concepts": question.concepts, "found": measurement(question)} for question in together()]


def main() -> None:
    """Print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=100, help="of each kind for a line (%(default)s)")
    parser.add_argument("--backend", default="openvino", help="of the engines (%(default)s)")
    parser.add_argument("--precision", default="bfloat16", help="of the engines (%(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="file to write, .json; one with some rules is gone on with")
    arguments = parser.parse_args()
    kind = {name: getattr(arguments, name) for name in ("prompts", "backend", "precision")}
    begun = json.loads(arguments.output.read_text()) if arguments.output.exists() else {**kind, "rules": {}}
    if different := [name for name, value in kind.items() if begun[name] != value]:
        parser.error(f"--output: expected {', '.join(different)} as in {arguments.output}, found other values; name another file")
    for name, rule in RULES.items():
        if name not in begun["rules"]:
            begun["rules"][name] = measure(rule, **kind)
            with replacing(arguments.output) as temporary:
                temporary.write_text(json.dumps(begun, indent=1) + "\n")


if __name__ == "__main__":
    main()
