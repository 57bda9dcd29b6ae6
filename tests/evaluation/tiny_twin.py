"""A twin of random weights that takes milliseconds: Stable Diffusion's networks in miniature, and heads to their width."""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from typing import Any

import numpy as np
import transformers

from engines.geometry import Geometry
from engines.policy import Policy
from evaluation.attacks.target import Prompt, Target
from evaluation.sampling import RunOptions
from evaluation.twin import Twin
from export.build_command import DEMO_MODEL
from saferedir.guard import Concept
from tests.export import miniature
from tests.random_heads import SMALL, random_heads

PROMPT = Prompt("a burning blue square", "a blue square", seed=3)


@cache
def tiny_twin(concepts: int = 1) -> Twin:
    heads = random_heads(dataclasses.replace(SMALL, embed_dim=miniature.WIDTH))
    return Twin.of(
        miniature.modules(miniature.configs("sd1")),
        transformers.CLIPTokenizer.from_pretrained(DEMO_MODEL / "tokenizer"),
        json.loads((DEMO_MODEL / "scheduler" / "scheduler_config.json").read_text()),
        Geometry(miniature.WIDTH, 8, 64, 64, 2),
        [Concept(heads)] * concepts,
        [Policy(threshold=0.3)] * concepts,
    )


def never(picture: np.ndarray) -> bool:
    """A judge that sees the concept nowhere, so that every search spends its budget."""
    assert picture.dtype == np.uint8 and picture.shape == (64, 64, 3)
    return False


def tiny_target(judge: Any = never) -> Target:
    return Target(tiny_twin(), judge, RunOptions(num_inference_steps=3))
