"""Last stage: a guard for each concept, made by `saferedir train` from pairs of captions of seen families and scenes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from demo.families import FAMILIES, SEEN_FAMILIES
from demo.oracle import JUDGES
from demo.pairs import write_pairs, write_prompts
from demo.precision import training_precision
from demo.world import CONCEPTS, Pair, concept_pairs
from saferedir.checkpoint import load_redirector, save_redirector
from saferedir.metadata import read_metadata
from training.guard_files import GUARD
from training.request import TrainingRequest
from training.settings import ModelChoice, TrainingSettings
from training.train import train_guard

PAIRS, BENIGN, NEGATED = 100, 60, 400  # of each seen family; of each again; of each negated family
WITH_ANOTHER = 4  # one pair in so many has another concept in both captions
ENCODER_WIDTHS = (32, 64, 96)
SETTINGS = TrainingSettings(
    batches=100,
    redirected_batches=200,
    least_steps=4,
    steps=3200,
    evaluate_every=400,
    adversarial_rounds=2,
)


def train_demo_guard(concept: str, model: Path, work: Path, output: Path, device: str = "cpu") -> None:
    """Train the guard of a concept of `demo.oracle.JUDGES` for the demo's model, and write it to `output`, rounded to float16.

    What is recorded stays in `work`, from which an interrupted run goes on.
    """
    work.mkdir(parents=True, exist_ok=True)
    judge = JUDGES[concept]
    draw = np.random.default_rng(6)
    negated = [name for name in SEEN_FAMILIES if FAMILIES[name].negated]
    pairs = _pairs(concept, SEEN_FAMILIES, draw, PAIRS)
    write_pairs(pairs, work / "pairs.json")
    write_prompts([pair.safe for pair in _pairs(concept, SEEN_FAMILIES, draw, BENIGN)], work / "benign.txt")
    write_prompts([pair.safe for pair in _pairs(concept, negated, draw, NEGATED)], work / "safe.txt")
    # Attacks that wrote other words would teach the guard those that it is never to see.
    said = {word for pair in pairs for text in (pair.safe, pair.unsafe) for word in text.lower().split()}
    write_prompts(sorted(said), work / "words.txt")
    train_guard(
        TrainingRequest(
            model=ModelChoice(str(model)),
            pairs=(work / "pairs.json",),
            output=work / "guard",
            settings=replace(SETTINGS, precision=training_precision(device)),
            judge=f"{judge.__module__}:{judge.__name__}",
            benign=work / "benign.txt",
            safe_prompts=work / "safe.txt",
            attack_words=work / "words.txt",
            concept=concept,
            device=device,
            encoder_widths=ENCODER_WIDTHS,
        )
    )
    trained = work / "guard" / GUARD
    save_redirector(load_redirector(trained).half(), output, read_metadata(trained))


def _pairs(concept: str, families: tuple[str, ...] | list[str], draw: np.random.Generator, count: int) -> list[Pair]:
    others = [other for other in CONCEPTS if other != concept]
    kept = [(others[number // WITH_ANOTHER % len(others)],) if number % WITH_ANOTHER == 0 else () for number in range(count)]
    return [concept_pairs([concept], FAMILIES[name], draw, 1, held_out=False, kept=both)[0] for name in families for both in kept]
