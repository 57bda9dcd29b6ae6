"""A folder of recorded trajectories: shards of safetensors, their index, and the digest of all that decides them.

A shard holds one batch: n trajectories and N points of them.

    latents       float16 [N, 4, H, W]   the scheduler's own sample, before input scaling
    timesteps     float32 [N]            0 for final latents, and for the last step of some schedulers
    final         bool [N]               whether the sample is final latents
    unsafe        bool [N]               the label
    trajectory    int32 [N]              which of the n the point is of
    embeds        float16 [n, 77, D]     of the prompt, as encoded
    target_shift  float16 [n, 77, D]     e_safe − e_unsafe of corresponding tokens; 0 for safe prompts
    differs       bool [n, 77]           tokens that the counterpart lacks
    pair          int32 [n]              which pair, -1 for a hard negative
    asked         bool [n]               whether the prompt asks for the concept
    shown         bool [n]               whether the judge sees it in the picture; absent without a judge
    shift         float16 [N, 77, D]     what a guard had added to the embeddings; absent where none ran
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor
from tqdm import tqdm

from engines.decode import decode, without_duplicates
from engines.errors import InputError
from engines.store.atomic import remove_leftovers, replacing
from engines.store.digests import file_digest

INDEX = "index.json"


@dataclass(frozen=True)
class Shard:
    """A file of the folder, and its SHA-256."""

    file: str
    sha256: str


@dataclass(frozen=True)
class Index:
    """What the folder holds, and the digest of what decides it."""

    digest: str
    shards: list[Shard]


def digest_of(decided_by: Mapping[str, Any]) -> str:
    """SHA-256 of values that JSON can hold."""
    return hashlib.sha256(json.dumps(decided_by, sort_keys=True).encode()).hexdigest()


def record_shards(
    folder: Path, decided_by: Mapping[str, Any], count: int, record: Callable[[int], Mapping[str, Tensor]]
) -> list[Path]:
    """Bring the folder to `count` shards, shard i being `record(i)`, and return their paths in order.

    What is there is kept, so that a run that was killed goes on where it was: one batch is in memory, and each shard is written
    whole or not at all.

    Raises:
        InputError: what is there was made from something else, or was altered.
    """
    folder.mkdir(parents=True, exist_ok=True)
    digest = digest_of(decided_by)
    index = read_index(folder, digest)
    remove_leftovers(folder / _name(len(index.shards)))
    with tqdm(total=count, initial=min(len(index.shards), count), desc=folder.name, unit="shard", mininterval=5) as bar:
        for number in range(len(index.shards), count):
            path = folder / _name(number)
            tensors = {name: tensor.contiguous() for name, tensor in record(number).items()}
            with replacing(path) as temporary:
                temporary.write_bytes(safetensors.torch.save(tensors))
            index = Index(digest, [*index.shards, Shard(path.name, file_digest(path))])
            with replacing(folder / INDEX) as temporary:
                temporary.write_text(json.dumps(asdict(index), indent=1) + "\n", encoding="utf-8")
            bar.update()
    return [folder / shard.file for shard in index.shards[:count]]


def read_index(folder: Path, digest: str) -> Index:
    """The folder's index, all of whose shards are as they were written; an empty one where there is none.

    Raises:
        InputError: it is of something else than `digest` says, cannot be read, or a shard is missing or altered.
    """
    path, again = folder / INDEX, f"choose another --output, or remove {folder} to record it again"
    if not path.is_file():
        return Index(digest, [])
    try:
        index = decode(Index, json.loads(path.read_bytes(), object_pairs_hook=without_duplicates), INDEX)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected an index of shards, cannot be used: {error}; {again}") from None
    if index.digest != digest:
        raise InputError(
            f"{folder}: expected trajectories of this model, these prompts and settings, found those of others; {again}"
        )
    for number, shard in enumerate(index.shards):
        file = folder / _name(number)
        if shard.file != file.name or not file.is_file() or file_digest(file) != shard.sha256:
            raise InputError(f"{file}: expected the shard that was written, found it missing or altered; {again}")
    return index


def _name(number: int) -> str:
    return f"{number:05}.safetensors"
