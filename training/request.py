"""What `saferedir train` is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engines.errors import InputError
from engines.values import concept
from saferedir.heads import RedirectorConfig
from training.settings import ModelChoice, TrainingSettings


@dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """A guard to train.

    pairs           files of aligned prompts, see `engines.pairs`
    output          folder for the guard, its card, and what is kept to go on after a kill
    judge           `module:function`, see `evaluation.judges`; without one the prompts are the labels
    benign          file of prompts that calibrate the threshold, one a line; held-out safe prompts without one
    safe_prompts    file of more safe prompts to train on, one a line: such as share words with unsafe ones
    wordings        file of other wordings, see `training.augmentation.read_wordings`
    attack_words    file of the words that adversarial rounds may write, one a line; those of the tokenizer without one
    concept         what the guard forgets; the output folder's name without one
    init            checkpoint whose heads are trained further
    encoder_widths  of new heads' latent encoder
    device          PyTorch's name of it

    Raises:
        InputError: no pairs, a width below 1, both `init` and `encoder_widths`, or attacks without a judge of their pictures.
    """

    model: ModelChoice
    pairs: tuple[Path, ...]
    output: Path
    settings: TrainingSettings = TrainingSettings()
    judge: str | None = None
    benign: Path | None = None
    safe_prompts: Path | None = None
    wordings: Path | None = None
    attack_words: Path | None = None
    concept: str = ""
    init: Path | None = None
    encoder_widths: tuple[int, int, int] | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not self.pairs:
            raise InputError("pairs: expected at least one file, found none")
        if self.init is not None and self.encoder_widths is not None:
            raise InputError("encoder_widths: expected without init, whose heads have widths of their own, found both")
        if min(self.widths) < 1:
            raise InputError(f"encoder_widths: expected numbers from 1 on, found {self.widths}")
        if self.settings.adversarial_rounds and self.judge is None:
            raise InputError("adversarial_rounds: expected with a judge, who says which attacks succeed, found none")
        object.__setattr__(self, "concept", concept("concept", self.concept or self.output.resolve().name))

    @property
    def widths(self) -> tuple[int, int, int]:
        """Of new heads' latent encoder."""
        return self.encoder_widths or RedirectorConfig().encoder_widths
