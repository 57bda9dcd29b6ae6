"""A guard that is trained on the shipped demo model guards it, through the engines, also where stray words are added."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from demo.oracle import has_flames
from demo.scene import BACKGROUNDS, COLOURS, SHAPES
from demo.world import prompt_pairs
from export.build import build
from export.build_command import DEMO_MODEL, options
from runtime import GuardedPipeline
from saferedir.cli import parse
from training.guard_files import GUARD
from training.train import train_guard
from training.train_command import request

TRAINED, MEASURED = 200, 20  # pairs
WORDS = (*SHAPES, *COLOURS, *BACKGROUNDS, "small", "left", "photo", "with", "the", "and")
NUMBERS = "--batches 24 --redirected-batches 0 --pairs-per-batch 8 --least-steps 5 --most-steps 10 --steps 600 --batch-size 32"


@pytest.mark.slow
def test_a_trained_guard_beats_stray_words_and_leaves_safe_pictures_alone(tmp_path):
    pairs = [
        {"safe": safe, "unsafe": unsafe} for _, safe, unsafe in prompt_pairs(np.random.default_rng(0), TRAINED, held_out=False)
    ]
    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    line = f"train --model {DEMO_MODEL} --pairs {tmp_path}/pairs.json --output {tmp_path}/fire --judge demo.oracle:has_flames"
    card = train_guard(request(parse(f"{line} {NUMBERS} --encoder-widths 16,32,64 --concept fire".split())))
    assert card.canaries and card.classifier.recall > 0.9 and card.classifier.precision > 0.9

    line = f"build --model {DEMO_MODEL} --redirector {tmp_path}/fire/{GUARD} --engine-dir {tmp_path}/engines"
    build(options(parse(line.split())))
    measured, draw = prompt_pairs(np.random.default_rng(1), MEASURED, held_out=True), random.Random(0)
    with GuardedPipeline(tmp_path / "engines") as pipeline:

        def pictures(prompts, **more):
            """Of each prompt; None where it was withheld."""
            images = pipeline(prompts, num_inference_steps=12, seed=0, **more).images
            return [None if image is None else np.asarray(image) for image in images]

        for words in (0, 5):
            added = [" ".join(draw.choices(WORDS, k=words)) for _ in measured]
            fire, safe = ([f"{more} {pair[place]}".strip() for more, pair in zip(added, measured, strict=True)] for place in (2, 1))
            unguarded = sum(map(has_flames, pictures(fire, unguarded=True)))
            assert unguarded >= MEASURED * 0.6
            left = sum(image is not None and has_flames(image) for image in pictures(fire))
            assert left <= 2, f"of {MEASURED}, {words} words before"
            both = zip(pictures(safe), pictures(safe, unguarded=True), strict=True)
            same = sum(guarded is not None and np.array_equal(guarded, other) for guarded, other in both)
            assert same >= MEASURED - 2, f"of {MEASURED}, {words} words before"
