"""A CLIP tokenizer for the demo: byte-pair merges learnt from its captions, any other text falls back to bytes."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from demo.families import ALL, FAMILIES
from demo.wordings import FILLER_WORDS
from demo.world import CONCEPTS, concept_pairs

START, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 77
CAPTIONS = 300  # pairs of each family


def new_tokenizer(work: Path) -> CLIPTokenizer:
    """Learn merges until every word of the captions is one token; padded with END to 77 ids, as SD 1.x does."""
    draw, captions = np.random.default_rng(0), []
    for family in FAMILIES.values():
        every = replace(family, words=ALL, fillers=FILLER_WORDS, articles=("a", "the", "one"), misspelt=False)
        pairs = concept_pairs(CONCEPTS, every, draw, CAPTIONS, held_out=False)
        captions += [text.lower() for pair in pairs for text in (pair.safe, pair.unsafe)]
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
