"""Converts a CLIP tokenizer of vocab.json and merges.txt to the one file that `tokenizers` reads without transformers."""

from __future__ import annotations

import sys
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import CLIPTokenizer

from engines.errors import InputError
from engines.networks import TOKENS

# The pattern of CLIP (Radford et al. 2021, `simple_tokenizer.py`); ideographs stand alone as in BERT's basic tokenizer,
# which CLIPTokenizer applies first.
_IDEOGRAPHS = (
    r"\x{3400}-\x{4DBF}\x{4E00}-\x{9FFF}\x{F900}-\x{FAFF}"
    r"\x{20000}-\x{2A6DF}\x{2A700}-\x{2CEAF}\x{2F800}-\x{2FA1F}"
)
_PATTERN = rf"(?i)'s|'t|'re|'ve|'m|'ll|'d|[{_IDEOGRAPHS}]|(?:(?![{_IDEOGRAPHS}])\p{{L}})+|\p{{N}}|[^\s\p{{L}}\p{{N}}]+"
# str.lower writes a sigma at the end of a word as ς (Unicode, SpecialCasing.txt); the normalizer sees single letters only.
_FINAL_SIGMA = r"(?<=[\p{Lu}\p{Ll}\p{Lt}])\x{03A3}(?![\p{Mn}'.:\x{00AD}\x{2019}]*[\p{Lu}\p{Ll}\p{Lt}])"
# What the conversion must agree on with CLIPTokenizer before a build accepts it.
CORPUS = (
    "",
    " ",
    "a burning blue square on a grey background",
    "A PHOTO of an Astronaut, riding-a-horse!!! (8k, f/1.4)",
    "it's they're we've I'm you'll he'd",
    "café cafe\u0301 naïve Ångström İstanbul straße ΟΔΟΣ",
    "日本語のプロンプト 中文提示 한국어",
    "привет мир مرحبا שלום",
    "emoji 🔥👩\u200d🚀 ❤️",
    "tabs\tand\nlines\u00a0nbsp\u2003em\u200bzero\u0000nul\ufffd\x07",
    "1234567890 3.14 ½ Ⅷ ٣",
    "<|startoftext|> inner <|endoftext|> tail",
    "“quotes” — dash… €$£ 100%",
    "x" * 300,
    "many words " * 60,
    "wow! great!!",
)


def convert_tokenizer(reference: CLIPTokenizer) -> Tokenizer:
    """A tokenizer with the ids of `reference` for any text, padding and truncating to 77.

    Raises:
        InputError: it does not give the same ids for the corpus, or for texts with the words that were added to its vocabulary.
    """
    ends = (str(reference.eos_token), reference.eos_token_id), (str(reference.bos_token), reference.bos_token_id)
    converted = Tokenizer(
        models.BPE(
            vocab=reference.encoder,
            merges=list(reference.bpe_ranks),
            unk_token=str(reference.unk_token),
            end_of_word_suffix="</w>",
            continuing_subword_prefix="",
            fuse_unk=False,
        )
    )
    converted.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(_removed_characters()), ""),
            normalizers.NFC(),
            normalizers.Replace(Regex(_FINAL_SIGMA), "\u03c2"),
            normalizers.Lowercase(),
        ]
    )
    converted.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    converted.post_processor = processors.RobertaProcessing(*ends, add_prefix_space=False, trim_offsets=False)
    converted.add_special_tokens(
        [
            AddedToken(token.content, lstrip=token.lstrip, rstrip=token.rstrip, normalized=False)
            for _, token in sorted(reference.added_tokens_decoder.items())
        ]
    )
    converted.enable_truncation(TOKENS)
    converted.enable_padding(length=TOKENS, pad_id=reference.pad_token_id, pad_token=str(reference.pad_token))
    added = tuple(f"a {word} of{word} and <{word.upper()}, {word}!" for word in reference.added_tokens_encoder)
    check_tokenizer(converted, reference, (*CORPUS, *added))
    return converted


def check_tokenizer(converted: Tokenizer, reference: CLIPTokenizer, corpus: tuple[str, ...]) -> None:
    """Raise InputError unless both give the same ids for every text of the corpus."""
    for text in corpus:
        expected = reference(text, padding="max_length", max_length=TOKENS, truncation=True).input_ids
        ids = converted.encode(text).ids
        if ids != expected:
            raise InputError(
                f"tokenizer: expected ids {_trimmed(expected)} for {text!r}, the converted tokenizer gave {_trimmed(ids)}"
            )


def _trimmed(ids: list[int]) -> list[int]:
    return ids[: next((place for place in range(1, len(ids)) if set(ids[place:]) == {ids[-1]}), len(ids))]


def _removed_characters() -> str:
    """A character class of what CLIPTokenizer drops: control, format, private, unassigned, U+FFFD; not white space."""
    dropped = [
        code
        for code in range(sys.maxunicode + 1)
        if code == 0xFFFD
        or (
            unicodedata.category(chr(code)).startswith("C")
            and unicodedata.category(chr(code)) != "Cs"
            and chr(code) not in "\t\n\r"
        )
    ]
    ranges: list[list[int]] = []
    for code in dropped:
        if ranges and code == ranges[-1][1] + 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "[" + "".join(f"\\x{{{first:04X}}}-\\x{{{last:04X}}}" for first, last in ranges) + "]"
