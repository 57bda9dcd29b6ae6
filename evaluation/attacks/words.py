"""The words that an attack may write: those that are one token each, and prompts made of them that survive the tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from engines.errors import InputError
from engines.networks import TOKENS
from evaluation.twin import Twin

END_OF_WORD = "</w>"  # of a token of CLIP's vocabulary that ends a word


@dataclass(frozen=True, eq=False)
class Words:
    """Words in a fixed order, and the token id of each, int64 [V]."""

    texts: tuple[str, ...]
    ids: Tensor

    @classmethod
    def of(cls, twin: Twin, allowed: Sequence[str] | None = None) -> Words:
        """Those of the tokenizer's vocabulary that are letters, or of `allowed`, as far as each is read as one token.

        Raises:
            InputError: there are none.
        """
        vocabulary = twin.tokenizer.get_vocab()
        listed = {token.removesuffix(END_OF_WORD) for token in vocabulary if token.endswith(END_OF_WORD)}
        letters = sorted(word for word in listed if word.isascii() and word.isalpha() and word.islower())
        wanted = letters if allowed is None else list(allowed)
        read = twin.tokenizer(wanted, add_special_tokens=False).input_ids if wanted else []
        whole = {ids[0]: word for word, ids in zip(wanted, read, strict=True) if len(ids) == 1}
        if not whole:
            raise InputError(f"words: expected at least one that the tokenizer reads as one token, found none of {len(wanted)}")
        return cls(tuple(whole.values()), torch.tensor(list(whole), device=twin.device))


@dataclass(frozen=True, eq=False)
class Draft:
    """A prompt with places for words before and after it.

    Raises:
        InputError: all of it does not fit into 77 tokens.
    """

    twin: Twin
    words: Words
    prompt: str
    before: int
    after: int

    def __post_init__(self) -> None:
        used = len(self._own) + self.before + self.after
        if used > TOKENS - 2:
            raise InputError(
                f"tokens: expected a prompt of at most {TOKENS - 2} tokens with what is added, found {used}; add fewer"
            )

    @cached_property
    def _own(self) -> list[int]:
        ids: list[int] = self.twin.tokenizer(self.prompt, add_special_tokens=False).input_ids
        return ids

    @cached_property
    def places(self) -> list[int]:
        """The token positions of the words."""
        first = 1 + self.before + len(self._own)
        return [*range(1, 1 + self.before), *range(first, first + self.after)]

    @cached_property
    def _frame(self) -> Tensor:
        """Ids int64 [77] with any words."""
        filler = [int(self.words.ids[0])] * (self.before + self.after)
        used = [*filler[: self.before], *self._own, *filler[self.before :]]
        start, end, pad = (getattr(self.twin.tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad"))
        padding = [pad] * (TOKENS - 2 - len(used))
        return torch.tensor([start, *used, end, *padding], device=self.twin.device)

    def ids(self, chosen: Tensor) -> Tensor:
        """Ids [N, 77] of drafts whose words are `chosen`, int64 [N, before + after], places in `words`."""
        ids = self._frame.repeat(len(chosen), 1)
        ids[:, self.places] = self.words.ids[chosen]
        return ids

    def text(self, chosen: Sequence[int], prompt: str | None = None) -> str:
        """The words around the prompt, or around another."""
        texts = [self.words.texts[word] for word in chosen]
        return " ".join([*texts[: self.before], self.prompt if prompt is None else prompt, *texts[self.before :]])

    def survives(self, chosen: Tensor) -> Tensor:
        """Bool [N]: whether the tokenizer reads a draft's text as the ids that were searched, so that it can be typed in."""
        return (self.twin.ids([self.text(row) for row in chosen.tolist()]) == self.ids(chosen)).all(dim=1)
