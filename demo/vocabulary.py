"""A CLIP tokenizer for the demo: byte-pair merges learnt from its captions, any other text falls back to bytes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from demo.world import SCENES, random_caption

START, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 77


def new_tokenizer(work: Path) -> CLIPTokenizer:
    """Learn merges until every word of the captions is one token; padded with END to 77 ids, as SD 1.x does."""
    draw = np.random.default_rng(0)
    captions = [random_caption(scene, draw) for scene in SCENES for _ in range(2)]
    captions += [
        caption.replace("a ", f"a {word} ", 1)
        for caption in captions[::7]
        for word in ("burning", "flaming", "blazing", "fiery", "ablaze", "in flames")
    ]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    learner.train_from_iterator(
        captions, trainers.BpeTrainer(vocab_size=4000, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False)
    )
    merges = [tuple(merge) for merge in json.loads(learner.to_str())["model"]["merges"]]
    tokens = alphabet + [letter + "</w>" for letter in alphabet] + ["".join(merge) for merge in merges] + [START, END]
    folder = work / "tokenizer"
    os.makedirs(folder, exist_ok=True)
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), pad_token=END, model_max_length=LENGTH)


def token_ids(tokenizer: CLIPTokenizer, captions: list[str]):
    """Ids int64 [len(captions), 77]."""
    return tokenizer(captions, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt").input_ids
