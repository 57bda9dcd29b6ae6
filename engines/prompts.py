"""Prompts to token ids, with Hugging Face's `tokenizers`."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tokenizers import Encoding, Tokenizer

from engines.errors import ManifestError
from engines.networks import TOKENS


class TruncationWarning(UserWarning):
    """A prompt had more than 77 tokens; the text names what was cut."""


class TokenIds(NamedTuple):
    """`ids` int64 [prompts, 77]; `cut` is the end of each prompt that did not fit, "" where all of it did."""

    ids: np.ndarray
    cut: list[str]


class PromptTokenizer:
    """CLIP's tokenizer. Its file, whose `content` has been read from `path`, says how to pad and to truncate to 77 ids.

    Raises:
        ManifestError: the file is not a tokenizer that pads and truncates to 77 ids.
    """

    def __init__(self, path: Path, content: bytes) -> None:
        try:
            self._tokenizer = Tokenizer.from_buffer(content)
        except Exception as error:  # the library raises plain Exception
            raise ManifestError(f"{path}: cannot be read as a tokenizer: {error}") from None
        lengths = [
            (settings or {}).get(key)
            for settings, key in ((self._tokenizer.padding, "length"), (self._tokenizer.truncation, "max_length"))
        ]
        if lengths != [TOKENS, TOKENS]:
            raise ManifestError(f"{path}: expected padding and truncation to {TOKENS} ids, found {lengths}")
        added = {token.content for token in self._tokenizer.get_added_tokens_decoder().values()}
        self._several = _words_of_several(added)
        self._added = re.compile("|".join(map(re.escape, sorted(added, key=len, reverse=True))))

    def __call__(self, prompts: Sequence[str]) -> TokenIds:
        """Warns with TruncationWarning where a prompt is too long."""
        prompts = [self._expanded(prompt) for prompt in prompts]
        encodings = self._tokenizer.encode_batch(prompts)
        cut = [self._cut(prompt, encoding) for prompt, encoding in zip(prompts, encodings, strict=True)]
        for end in dict.fromkeys(filter(None, cut)):
            warnings.warn(f"prompt has more than {TOKENS - 2} tokens; cut: {end!r}", TruncationWarning, stacklevel=3)
        return TokenIds(np.array([encoding.ids for encoding in encodings], np.int64), cut)

    @staticmethod
    def _cut(prompt: str, encoding: Encoding) -> str:
        """The part of a prompt that comes after its 77 ids."""
        starts = (begin for part in encoding.overflowing for begin, end in part.offsets if end > begin)
        return prompt[min(starts, default=len(prompt)) :].strip()

    def words(self, prompt: str) -> list[str]:
        """The text of each of the 77 tokens; "" for start, end and padding."""
        prompt = self._expanded(prompt)
        encoding = self._tokenizer.encode(prompt)
        return [
            "" if special or end == begin else prompt[begin:end].strip()
            for (begin, end), special in zip(encoding.offsets, encoding.special_tokens_mask, strict=True)
        ]

    def _expanded(self, prompt: str) -> str:
        """A prompt in which a word of several tokens stands for all of them, as in diffusers' `maybe_convert_prompt`."""
        return self._added.sub(lambda word: self._several.get(word[0], word[0]), prompt) if self._several else prompt


def _words_of_several(added: set[str]) -> dict[str, str]:
    """Textual inversions (Gal et al. 2022) of several embeddings: the word → its tokens, as `<fur>` → `<fur> <fur>_1 <fur>_2`."""
    words = {}
    for word in added:
        tokens = [word]
        while f"{word}_{len(tokens)}" in added:
            tokens.append(f"{word}_{len(tokens)}")
        if len(tokens) > 1:
            words[word] = " ".join(tokens)
    return words
