"""SafeRedir checkpoints as concepts of a guard for one model."""

from __future__ import annotations

from engines.errors import InputError
from export.build_request import Checkpoint
from export.sources.model_folder import Source
from saferedir.checkpoint import load_redirector
from saferedir.guard import Concept


def load_concept(checkpoint: Checkpoint, source: Source) -> Concept:
    """The trained heads and how they are used.

    Raises:
        CheckpointError: the file cannot be used.
        InputError: it was made for another prompt width.
    """
    heads = load_redirector(checkpoint.path)
    if (width := heads.config.embed_dim) != source.geometry.embed_dim:
        raise InputError(
            f"{checkpoint.path}: expected a checkpoint for prompt width {source.geometry.embed_dim} "
            f"(text_encoder of {source.name}), found {width}"
        )
    return Concept(heads, checkpoint.mask_again)
