"""A model's tokenizer, from the files of transformers 4 (vocab.json, merges.txt) or of transformers 5 (tokenizer.json alone)."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AddedToken, CLIPTokenizer

from engines.errors import InputError
from engines.git_lfs import lfs_problem
from engines.networks import TOKENS

_SPECIAL = ("unk_token", "bos_token", "eos_token", "pad_token")


def load_tokenizer(files: Sequence[Path], vocab_size: int, pad_token: str | None = None) -> CLIPTokenizer:
    """The tokenizer whose files these are, all of one folder. `vocab_size` is how many ids the text encoder knows, `pad_token` what
    it must pad with, None for any.

    Raises:
        InputError: they cannot be read, or the tokenizer gives other lengths or ids than the text encoder takes.
    """
    for file in files:
        if (problem := lfs_problem(file)) is not None:
            raise InputError(problem)
    folder, names = files[0].parent, {file.name for file in files}
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder) if {"vocab.json", "merges.txt"} <= names else _of_one_file(folder)
    except Exception as error:  # whatever json and transformers raise for files that they cannot read
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise InputError(f"{folder}: cannot be read as a CLIP tokenizer: {reason}") from None
    _check(tokenizer, folder, vocab_size)
    if pad_token not in (None, tokenizer.pad_token):
        raise InputError(
            f"{folder / 'tokenizer_config.json'}: pad_token: expected {pad_token!r}, as this model's family has, found "
            f"{tokenizer.pad_token!r}; set it, or pass --config FOLDER with the model's own tokenizer/"
        )
    return tokenizer


def _check(tokenizer: CLIPTokenizer, folder: Path, vocab_size: int) -> None:
    if (length := tokenizer.model_max_length) != TOKENS:
        raise InputError(f"{folder / 'tokenizer_config.json'}: model_max_length: expected {TOKENS}, found {length}")
    if (highest := max(tokenizer.get_vocab().values())) >= vocab_size:
        raise InputError(f"{folder}: expected ids below {vocab_size} (vocab_size of text_encoder), found {highest}")


def _of_one_file(folder: Path) -> CLIPTokenizer:
    """tokenizer.json holds vocabulary, merges and added tokens; transformers 4 wants the first two in files."""
    parsed = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    path = folder / "tokenizer_config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if (kind := parsed["model"].get("type", "BPE")) != "BPE":
        raise ValueError(f"tokenizer.json: expected a BPE model, found {kind}")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in parsed["model"]["merges"]]
    special = {name: _content(config[name]) for name in _SPECIAL if config.get(name) is not None}
    with tempfile.TemporaryDirectory() as temporary:
        vocabulary, listed = Path(temporary, "vocab.json"), Path(temporary, "merges.txt")
        vocabulary.write_text(json.dumps(parsed["model"]["vocab"]), encoding="utf-8")
        listed.write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
        return CLIPTokenizer(
            str(vocabulary),
            str(listed),
            **special,
            model_max_length=config.get("model_max_length", TOKENS),
            added_tokens_decoder={token["id"]: _added(token) for token in parsed.get("added_tokens", [])},
        )


def _content(token: str | dict[str, Any]) -> str:
    return token if isinstance(token, str) else str(token["content"])


def _added(token: dict[str, Any]) -> AddedToken:
    return AddedToken(**{key: value for key, value in token.items() if key != "id"})
