"""The converted tokenizer has CLIPTokenizer's ids."""

from __future__ import annotations

import random
import warnings
from pathlib import Path

import pytest
from diffusers.loaders import TextualInversionLoaderMixin
from transformers import CLIPTokenizer

from engines.errors import InputError
from engines.networks import TOKENS
from engines.prompts import PromptTokenizer
from export.build_command import DEMO_MODEL
from export.tokenizer import CORPUS, check_tokenizer, convert_tokenizer

# Code points of scripts, symbols, punctuation and emoji that Unicode has had for long.
RANGES = (
    (32, 127),
    (0xA0, 0x250),
    (0x370, 0x530),
    (0x5D0, 0x5EB),
    (0x620, 0x64B),
    (0x905, 0x93A),
    (0xE01, 0xE3B),
    (0x1E00, 0x1F00),
    (0x2010, 0x2028),
    (0x2030, 0x205F),
    (0x20A0, 0x20BA),
    (0x2100, 0x2140),
    (0x2190, 0x2300),
    (0x3041, 0x3097),
    (0x30A1, 0x30FB),
    (0x4E00, 0x9FA6),
    (0xAC00, 0xD7A4),
    (0xFF01, 0xFF5F),
    (0x1F300, 0x1F5FF),
)
WORDS = ("burning", "BLUE square", "'s", "'LL", "!", "!!", " ", "\n", "\t ", "<|endoftext|>", "e\u0301", "\u200d", "ΟΔΟΣ ", "42")


@pytest.mark.parametrize("pad", ["<|endoftext|>", "!"], ids=["sd1", "sd2"])
def test_random_unicode(pad):
    tokenizer = DEMO_MODEL / "tokenizer"
    reference = CLIPTokenizer(str(tokenizer / "vocab.json"), str(tokenizer / "merges.txt"), pad_token=pad, model_max_length=77)
    converted, draw = convert_tokenizer(reference), random.Random(0)
    corpus = []
    for _ in range(1500):
        ranges = draw.sample(RANGES, 2)
        corpus.append(
            "".join(
                draw.choice(WORDS) if draw.random() < 0.3 else chr(draw.randrange(*draw.choice(ranges)))
                for _ in range(draw.randrange(1, 30))
            )
        )
    check_tokenizer(converted, reference, tuple(corpus))


def test_a_difference_is_an_error():
    reference = CLIPTokenizer.from_pretrained(DEMO_MODEL / "tokenizer")
    converted = convert_tokenizer(reference)
    converted.enable_padding(length=77, pad_id=0, pad_token="!")
    with pytest.raises(InputError, match="tokenizer: expected ids"):
        check_tokenizer(converted, reference, CORPUS)


@pytest.fixture(scope="module")
def inversions() -> CLIPTokenizer:
    """With words of one, two and four embeddings."""
    reference = CLIPTokenizer.from_pretrained(DEMO_MODEL / "tokenizer")
    reference.add_tokens(["<one>", "fur", "fur_1", "<Cat Toy>", "<Cat Toy>_1", "<Cat Toy>_2", "<Cat Toy>_3"])
    return reference


@pytest.mark.parametrize(
    "prompt",
    [
        "a burning blue square",
        "a <one> square",
        "a <Cat Toy>, with<Cat Toy>fur on it",
        "a <cat toy> is no word of it",
        "fur",
        "only fur_1 and <Cat Toy>_3",
        "<one> " * 20 + "<Cat Toy> " * 15 + "fur",
    ],
)
def test_words_of_several_tokens_are_expanded_as_diffusers_does(inversions, prompt):
    tokenizer = PromptTokenizer(Path("tokenizer.json"), convert_tokenizer(inversions).to_str().encode())
    expanded = TextualInversionLoaderMixin().maybe_convert_prompt(prompt, inversions)
    expected = inversions(expanded, padding="max_length", max_length=TOKENS, truncation=True).input_ids
    with warnings.catch_warnings(action="ignore"):
        found = tokenizer([prompt])
    assert found.ids.tolist() == [expected] and bool(found.cut[0]) == (len(inversions(expanded).input_ids) > TOKENS)


def test_a_report_names_each_token_of_a_word(inversions):
    tokenizer = PromptTokenizer(Path("tokenizer.json"), convert_tokenizer(inversions).to_str().encode())
    assert [word for word in tokenizer.words("a fur") if word] == ["a", "fur", "fur_1"]
    assert tokenizer(["<Cat Toy>_1 <Cat Toy>"]).ids[0, 1:6].tolist() == [919, 918, 919, 920, 921]  # diffusers expands within words
