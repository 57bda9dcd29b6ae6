"""What docs/evidence.md asks of the demo's guards: one row for each line of its tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from demo.ablations import ABLATIONS
from demo.families import FAMILIES, SEEN, UNSEEN, Family
from demo.wordings import UNSEEN_FIRE_WORDINGS
from demo.world import CONCEPTS
from runtime.samplers.registry import SAMPLERS

TOGETHER = "several concepts"
PART = 0.25  # see Question.share
FEW_STEPS = 4
STEPS = (1, 2, 3, 4, 6, 10, 25, 50)
POLICY = {"alpha_scale": (0.25, 0.5, 1.0, 1.25, 2.0), "replace_steps": (0, 1, 5, 20), "threshold": (0.1, 0.5, 0.9)}
SAMPLER_STEPS = (4, 10, 25)
SOME_SAMPLERS = ("euler_ancestral", "dpm_multistep", "unipc", "lcm", "DPM++ 2M Karras")
SAMPLER_NAMES = (*SAMPLERS, "DPM++ 2M Karras", "DPM++ 2M SDE Karras", "Euler Karras")
_USUAL = tuple(family for family in FAMILIES.values() if family.words == SEEN and not family.misspelt)


@dataclass(frozen=True)
class Question:
    """One line of a table.

    families  of the captions: a pair of each in turn
    kept      concepts that safe captions have, too, and that nobody guards against
    options   of both pictures, as `runtime.Request` has them, beside DDIM with 25 steps and guidance 7.5
    policy    numbers of the guard that differ from the checkpoint's
    check     the guard's, where it is not the engines' own
    hostile   whether the negative prompt is the safe caption
    ablation  the part of the heads that is switched off, a key of ABLATIONS, "" for none
    share     of the prompts that a line has: 1 where a rate must keep a bar
    """

    table: str
    name: str
    concepts: tuple[str, ...]
    families: tuple[Family, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    policy: Mapping[str, Any] = field(default_factory=dict)
    check: str | None = None
    hostile: bool = False
    kept: tuple[str, ...] = ()
    ablation: str = ""
    share: float = 1.0


def questions(concept: str) -> list[Question]:
    """All questions about one concept."""
    base = Question("", "", (concept,), tuple(FAMILIES.values()), share=PART)
    return [*_captions(base, concept), *_runs(base, concept), *_guards(base)]


def _captions(base: Question, concept: str) -> list[Question]:
    """Wordings, and other concepts beside this one."""
    share = 1.0 if concept == "fire" else PART
    found = [replace(base, table="wordings", name=name, families=(family,), share=share) for name, family in FAMILIES.items()]
    found.append(replace(base, table="wordings", name="all of these", share=1.0))
    for word in UNSEEN_FIRE_WORDINGS if concept == "fire" else ():
        family = Family(words=replace(UNSEEN, fire=(word,)))
        found.append(replace(base, table="unseen wordings", name=word, families=(family,), share=1.0))
    others = [other for other in CONCEPTS if other != concept]
    table = "another concept in both captions"
    return [*found, *(replace(base, table=table, name=other, families=_USUAL, kept=(other,)) for other in others)]


def _runs(base: Question, concept: str) -> list[Question]:
    """Steps, samplers, guidance and negative prompts."""
    found = []
    for check in ("before", "beside"):
        for steps in STEPS if check == "before" else STEPS[1:]:  # at one step no later call could act
            line = replace(base, table=f"steps, check {check}", name=str(steps), check=check)
            found.append(replace(line, options={"num_inference_steps": steps}, share=1.0 if steps == FEW_STEPS else PART))
    for steps in SAMPLER_STEPS:
        for name in SAMPLER_NAMES if concept == "fire" else SOME_SAMPLERS:
            options = {"scheduler": name, "num_inference_steps": steps}
            found.append(replace(base, table=f"samplers, {steps} steps", name=name, options=options))
    for guidance in (7.5, 15.0):
        for shift in ("both", "conditional"):
            name = f"guidance {guidance:g}, shift {shift}"
            part = replace(base, options={"guidance_scale": guidance}, policy={"shift": shift})
            found.append(replace(part, table="negative prompt: none", name=name))
            found.append(replace(part, table="negative prompt: the safe caption", name=name, hostile=True, share=1.0))
    return found


def _guards(base: Question) -> list[Question]:
    """Other numbers of the policy, and heads that lack a part."""
    found = [
        replace(base, table=name, name=str(value), policy={name: value}) for name, values in POLICY.items() for value in values
    ]
    return [*found, *(replace(base, table="without a part of the heads", name=name, ablation=name) for name in ABLATIONS)]


def together() -> list[Question]:
    """Questions about several concepts in one caption, with all guards on."""
    sets = (("fire", "style"), ("fire", "star"), ("style", "star"), CONCEPTS)
    return [Question(TOGETHER, " and ".join(concepts), tuple(concepts), _USUAL) for concepts in sets]
