"""The parts of a manifest: what was read, what was written, which guards are in it, what plans are tied to."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from engines.canary import CanaryRecord
from engines.policy import Policy
from engines.printable import shown
from engines.store.digests import file_digest, remembered_digest
from engines.values import concept

DIGEST = re.compile("[0-9a-f]{64}")  # SHA-256


@dataclass(frozen=True)
class FileRecord:
    """A file of an engine folder."""

    sha256: str
    size: int  # bytes

    def __post_init__(self) -> None:
        """Raises ValueError for what is no SHA-256."""
        if not DIGEST.fullmatch(self.sha256) or self.size < 0:
            raise ValueError(f"file: expected a SHA-256 and a size, found {shown(self.sha256)} and {self.size}")

    @classmethod
    def of(cls, path: Path) -> FileRecord:
        """The record of a file as it is."""
        return cls(file_digest(path), path.stat().st_size)


@dataclass(frozen=True)
class SourceRecord:
    """A file that was read by the build."""

    sha256: str
    size: int  # bytes

    @classmethod
    def of(cls, path: Path, always_read: bool = False) -> SourceRecord:
        """The record of a file. Without `always_read`, a large one that has not changed since it was last hashed is not read.

        Size and time of last change alone do not tell a file from the one that took its place: see `remembered_digest`.
        """
        return cls(file_digest(path) if always_read else remembered_digest(path), path.stat().st_size)


@dataclass(frozen=True)
class GuardRecord:
    """One concept of the guard.

    checkpoint   the file's name
    digest       its SHA-256
    policy       the default of a call
    final_check  whether the checkpoint vouches for its check of finished latents
    canaries     prompts with known answers: see `engines.store.canaries`
    """

    concept: str
    checkpoint: str
    digest: str
    mask_again: bool
    policy: Policy
    final_check: bool = False
    canaries: list[CanaryRecord] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Raises InputError, which is a ValueError, for what is no concept's name."""
        concept("concept", self.concept)


@dataclass(frozen=True)
class Target:
    """What TensorRT engines are tied to.

    library                 the one that built them, with its version
    compute_capabilities    of the GPUs that they run on, as "8.9, 12.0", or "portable": TensorRT-RTX from 8.0 on
    gpu, driver             the GPU that they were built on; empty for TensorRT-RTX, which needs none
    hardware_compatibility  none, ampere-plus or same-compute-capability (TensorRT)
    version_compatible      whether other releases of TensorRT, and its lean runtime, can run them
    workspace_gib           GiB of scratch memory that the builder could plan with, None for all
    optimization_level      the builder's effort, None for its default
    """

    library: str
    compute_capabilities: str
    gpu: str = ""
    driver: str = ""
    hardware_compatibility: str = "none"
    version_compatible: bool = False
    workspace_gib: float | None = None
    optimization_level: int | None = None
    kept_onnx: bool = False
