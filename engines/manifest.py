"""manifest.json: what was built, from what, for what, and the digest of every file of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engines.errors import InputError, ManifestError
from engines.store.atomic import replacing
from engines.store.digests import file_digest

FILE_NAME = "manifest.json"
FORMAT = 2
REBUILD = "rebuild with: saferedir build --force"


@dataclass(frozen=True)
class Geometry:
    """Sizes of the model: `embed_dim` D; `scale_factor` f of the autoencoder; sizes in pixels."""

    embed_dim: int
    scale_factor: int
    size_multiple: int  # height and width must be multiples of this: f times the UNet's downsamplings
    default_height: int
    default_width: int


def check_output(folder: Path, option: str) -> None:
    """Raise InputError where engines written to `folder` would replace something else. `option` is the flag that gave it."""
    if folder.is_dir():
        names = sorted(path.name for path in folder.iterdir())
        if not names or FILE_NAME in names:
            return
        found = f"{names[0]!r} and no manifest"
    elif folder.exists():
        found = "a file"
    else:
        return
    raise InputError(f"{folder}: expected an engine folder or none, found {found}; choose another {option}")


def nearest_multiples(size: float, multiple: int) -> str:
    """The sizes around one that the model cannot take, for error messages."""
    below = int(size // multiple) * multiple
    return " or ".join(str(near) for near in (below, below + multiple) if near > 0)


@dataclass(frozen=True)
class Policy:
    """The guard's numbers; the defaults are the reference implementation's.

    Raises:
        InputError: a number is out of its range.
    """

    alpha_scale: float = field(
        default=1.25,
        metadata={"help": "strength of the redirection, times the scale that the guard predicts for each token"},
    )
    threshold: float = field(
        default=0.5,
        metadata={"help": "probability of unsafe, 0 to 1, above which an image is redirected"},
    )
    replace_steps: int = field(
        default=2,
        metadata={"help": "sampler steps that a redirection lasts before the image is checked again"},
    )

    def __post_init__(self) -> None:
        if not 0 <= self.alpha_scale < math.inf:
            raise InputError(f"alpha_scale: expected a finite number of at least 0, found {self.alpha_scale!r}")
        if not 0 <= self.threshold <= 1:
            raise InputError(f"threshold: expected a probability from 0 to 1, found {self.threshold!r}")
        if not isinstance(self.replace_steps, int) or not 0 <= self.replace_steps <= 10_000:
            raise InputError(f"replace_steps: expected an integer from 0 to 10000, found {self.replace_steps!r}")


@dataclass(frozen=True)
class GuardRecord:
    """Which guard was built in: `digest` is the SHA-256 of the checkpoint file."""

    concept: str
    source: str
    digest: str
    mask_again: bool
    policy: Policy


@dataclass(frozen=True)
class Target:
    """What TensorRT engines are tied to. Sizes are MIN:OPT:MAX.

    library                 the one that built them, with its version
    compute_capabilities    of the GPUs that they run on, as "8.9, 12.0", or "portable": TensorRT-RTX from 8.0 on
    gpu, driver             the GPU that they were built on; empty for TensorRT-RTX, which needs none
    hardware_compatibility  none, ampere-plus or same-compute-capability (TensorRT)
    version_compatible      whether other releases of TensorRT, and its lean runtime, can run them
    workspace_gib           GiB of scratch memory that the builder could plan with, None for all
    optimization_level      the builder's effort, None for its default
    """

    library: str
    batch_size: str
    height: str
    width: str
    compute_capabilities: str
    gpu: str = ""
    driver: str = ""
    hardware_compatibility: str = "none"
    version_compatible: bool = False
    workspace_gib: float | None = None
    optimization_level: int | None = None
    kept_onnx: bool = False

    def span(self, size: str) -> tuple[int, int, int]:
        """Smallest, preferred and largest batch_size, height or width."""
        smallest, preferred, largest = map(int, getattr(self, size).split(":"))
        return smallest, preferred, largest


@dataclass(frozen=True)
class FileRecord:
    sha256: str
    size: int  # bytes

    @classmethod
    def of(cls, path: Path) -> FileRecord:
        """The record of a file as it is."""
        return cls(file_digest(path), path.stat().st_size)


@dataclass(frozen=True)
class SourceRecord:
    """A file that was read by the build; size and time of last change tell whether it must be hashed again."""

    sha256: str
    size: int  # bytes
    mtime_ns: int


@dataclass(frozen=True)
class Manifest:
    """Everything about a folder of engines.

    `sources` maps each file that was read, relative to the model, to its record; `files` each written file, relative to
    this folder, to digest and size; `parity` network → output → {"cosine", "max_abs_error"} against PyTorch; `parity_of`
    tells what was compared: "engine", or "onnx" or "emulated onnx" (half precision on a CPU) for engines that must still
    pass on the device that will run them;
    `recipe` network → all that determines its file, compared field by field to tell what must be built again; `target` is
    what TensorRT engines are tied to, `optimized_for` the device of a backend that others are (see `engines.optimize`).
    """

    model: str
    sources: dict[str, SourceRecord]
    geometry: Geometry
    scheduler: dict[str, Any]
    guard: GuardRecord | None
    backend: str
    precision: str
    opset: int
    versions: dict[str, str]
    files: dict[str, FileRecord]
    parity: dict[str, dict[str, dict[str, float]]]
    parity_of: str
    recipe: dict[str, dict[str, Any]]
    target: Target | None
    command: str
    optimized_for: str | None = None
    format: int = field(default=FORMAT)

    @classmethod
    def read(cls, folder: Path) -> tuple[Manifest, str]:
        """The manifest of a folder and the SHA-256 of its file.

        Raises:
            ManifestError: missing, not JSON, of another format, or with missing or unknown fields.
        """
        path = Path(folder) / FILE_NAME
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ManifestError(f"{path}: no engines here ({error.strerror}); build them with: saferedir build") from None
        try:
            parsed = json.loads(content)
            if parsed.get("format") != FORMAT:
                raise ManifestError(f"{path}: expected format {FORMAT}, found {parsed.get('format')!r}; {REBUILD}")
            manifest = cls._from_json(parsed)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ManifestError(f"{path}: not a valid manifest ({error}); {REBUILD}") from None
        return manifest, hashlib.sha256(content).hexdigest()

    @classmethod
    def _from_json(cls, parsed: dict[str, Any]) -> Manifest:
        parsed = dict(parsed)
        parsed["geometry"] = Geometry(**parsed["geometry"])
        if parsed["guard"] is not None:
            policy = Policy(**parsed["guard"]["policy"])
            parsed["guard"] = GuardRecord(**{**parsed["guard"], "policy": policy})
        if parsed["target"] is not None:
            parsed["target"] = Target(**parsed["target"])
        parsed["files"] = {name: FileRecord(**record) for name, record in parsed["files"].items()}
        parsed["sources"] = {name: SourceRecord(**record) for name, record in parsed["sources"].items()}
        return cls(**parsed)

    def files_of(self, network: str) -> dict[str, FileRecord]:
        """The files of one network, or of the tokenizer."""
        return {name: record for name, record in self.files.items() if name.startswith(f"{network}/")}

    def precision_of(self, network: str) -> str:
        """What a network computes in: not all follow `precision`."""
        return self.recipe[network]["precision"]

    def write(self, folder: Path) -> None:
        """Write into a folder, atomically."""
        with replacing(Path(folder) / FILE_NAME) as temporary:
            temporary.write_text(json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n", encoding="utf-8")
