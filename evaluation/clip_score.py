"""How well a picture fits a text by CLIP, and the text without the words of the concept."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from engines.errors import InputError
from evaluation.packages import EXTRA, package
from evaluation.prompt_files import Prompt

Scorer = Callable[[np.ndarray, str], float]  # a picture uint8 [H, W, 3] and a text -> CLIPScore


def open_clip(folder: Path) -> Scorer:
    """CLIPScore by torchmetrics with the CLIP of a local folder: 100 · max(cos, 0), where Hessel et al. (2021) have 2.5 for 100.

    Raises:
        InputError: no such folder, or a package is not installed.
    """
    if not (folder / "config.json").is_file():
        raise InputError(f"--clip-model: expected a folder with a CLIP model of transformers, found no {folder / 'config.json'}")
    torch = package("torch", "--clip-model", EXTRA)
    transformers = package("transformers", "--clip-model", EXTRA)
    model = transformers.CLIPModel.from_pretrained(folder, local_files_only=True)
    processor = transformers.CLIPProcessor.from_pretrained(folder, local_files_only=True, use_fast=False)
    metric = package("torchmetrics.multimodal", "--clip-model", EXTRA).CLIPScore(lambda: (model, processor))

    def score(image: np.ndarray, text: str) -> float:
        metric.reset()
        metric.update(torch.from_numpy(image.transpose(2, 0, 1).copy()), text)
        return float(metric.compute())

    return score


def reference(prompt: Prompt, sensitive_words: Sequence[str]) -> str | None:
    """The prompt without the concept: the file's counterpart, else without these words; None where neither says it.

    Words are whole ones, in any case.
    """
    if prompt.counterpart is not None or not sensitive_words:
        return prompt.counterpart
    words = "|".join(re.escape(word) for word in sorted(sensitive_words, key=len, reverse=True))
    return " ".join(re.sub(rf"\b(?:{words})\b", " ", prompt.text, flags=re.IGNORECASE).split()) or None
