"""What a checkpoint says of its guard beside the tensors: concept, canaries, defaults, what its final check means."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open

from engines.canary import Canary
from engines.decode import decode, without_duplicates
from engines.errors import InputError
from engines.policy import CHECKS, Policy
from engines.printable import shown
from engines.values import concept, flag

KEY = "saferedir"  # among the metadata of a .safetensors file
SUFFIX = ".safetensors"  # of checkpoints that can have metadata


@dataclass(frozen=True)
class Metadata:
    """The metadata of a checkpoint; the defaults are for one that has none, as published .pt files.

    concept      what its guard forgets; "" for the name of the file
    canaries     prompts that its guard must judge rightly
    final_check  whether its check of finished latents may be trusted; `saferedir train` says so where it measured it
    policy       default numbers of its guard
    check        when its guard looks by default, see `runtime.Request`

    Raises:
        InputError: a value is of another type, or none of the allowed ones.
    """

    canaries: list[Canary] = field(default_factory=list)
    final_check: bool = False
    policy: Policy = Policy()
    check: str = "auto"
    concept: str = ""

    def __post_init__(self) -> None:
        if self.concept != "":
            concept("concept", self.concept)
        flag("final_check", self.final_check)
        if self.check not in CHECKS:
            raise InputError(f"check: expected one of {', '.join(CHECKS)}, found {shown(self.check)}")

    def to_json(self) -> str:
        """The text that a checkpoint carries under KEY."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)


def read_metadata(path: Path) -> Metadata:
    """The metadata of a checkpoint, without its tensors. Every value is read strictly by type; unknown ones are an error.

    Raises:
        InputError: no such file, no .safetensors file though its name says so, or metadata of another form.
    """
    if path.suffix != SUFFIX:
        return Metadata()
    if not path.is_file():
        raise InputError(f"{path}: expected a SafeRedir checkpoint, found no such file")
    try:
        with safe_open(path, framework="numpy") as file:
            content = (file.metadata() or {}).get(KEY)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: cannot be read as {SUFFIX} weights: {error}") from None
    if content is None:
        return Metadata()
    try:
        return decode(Metadata, json.loads(content, object_pairs_hook=without_duplicates), KEY)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: its metadata cannot be used: {error}; write it with saferedir.checkpoint.save_redirector"
        ) from None
