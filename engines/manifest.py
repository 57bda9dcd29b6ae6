"""manifest.json: what was built, from what, for what, and the digest of every file of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engines.decisions import DecisionRecord
from engines.decode import decode, without_duplicates
from engines.errors import DigestError, ManifestError
from engines.geometry import Geometry
from engines.policy import CHECKS
from engines.printable import shown
from engines.records import FileRecord, GuardRecord, SourceRecord, Target
from engines.sizes import Sizes
from engines.store.atomic import replacing

FILE_NAME = "manifest.json"
FORMAT = 4
REBUILD = "rebuild with: saferedir build --force"
PARITY_OF = {  # in words
    "engine": "engines with PyTorch",
    "onnx": "ONNX files with PyTorch; the engines must still pass on their device",
    "emulated onnx": "ONNX files with PyTorch, half precision emulated on a CPU; the engines must pass on their device",
}


@dataclass(frozen=True)
class Manifest:
    """Everything about a folder of engines.

    sources        each file that was read, relative to the model
    guards         the concepts of the guard, in the order of its dimension K; empty for engines without a guard
    files          each written file, relative to this folder
    parity         network → output → {"cosine", "max_abs_error"} against PyTorch
    parity_of      what was compared: "engine", or "onnx" or "emulated onnx" (half precision on a CPU) for engines that must still
                   pass on the device that will run them
    compared_on    network → the device on which its engine was compared: see `engines.store.parity_check`
    recipe         network → all that determines its files, compared field by field to tell what must be built again
    target         what TensorRT engines are tied to
    sizes          of batches and pictures that the engines take
    check          when the guard looks unless a call says otherwise: "before" or "beside" the UNet of a step, or "auto"
    decisions      of quantised engines: what they decided in whole runs beside float32 ones; None where that was not compared
    optimized_for  the device of a backend that engines are tied to otherwise (see `engines.optimize`)
    """

    model: str
    sources: dict[str, SourceRecord]
    geometry: Geometry
    scheduler: dict[str, Any]
    guards: list[GuardRecord]
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
    sizes: Sizes = Sizes()
    check: str = "auto"
    decisions: DecisionRecord | None = None
    optimized_for: str | None = None
    compared_on: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT

    @classmethod
    def read(cls, folder: Path, signed: str | None = None) -> tuple[Manifest, str]:
        """The manifest of a folder and the SHA-256 of its file, which must be `signed` where that is given.

        Raises:
            DigestError: it is not the manifest that was signed; nothing of it was parsed.
            ManifestError: missing, not JSON, of another format, or with missing or unknown fields.
        """
        path = Path(folder) / FILE_NAME
        try:
            content = path.read_bytes()
        except (OSError, ValueError) as error:  # ValueError for a name that no file can have
            reason = getattr(error, "strerror", error)
            raise ManifestError(f"{path}: no engines here ({reason}); build them with: saferedir build") from None
        digest = hashlib.sha256(content).hexdigest()
        if signed not in (None, digest):
            raise DigestError(f"{path}: altered: expected the SHA-256 that was signed, {signed}, found {digest}; {REBUILD}")
        try:
            parsed = json.loads(content, object_pairs_hook=without_duplicates)
            if not isinstance(parsed, dict) or parsed.get("format") != FORMAT:
                found = parsed.get("format") if isinstance(parsed, dict) else parsed
                raise ManifestError(
                    f"{path}: expected format {FORMAT}, found {shown(found)}; rebuild with: "
                    f"saferedir build --engine-dir {folder} and the options of its first build"
                )
            manifest = decode(cls, parsed, "manifest")
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"{path}: not a valid manifest ({error}); {REBUILD}") from None
        return manifest, digest

    def __post_init__(self) -> None:
        """Raises ValueError for what no build writes."""
        for name in self.files:
            _inside(name)
        if self.parity_of not in PARITY_OF:
            raise ValueError(f"parity_of: expected one of {', '.join(PARITY_OF)}, found {shown(self.parity_of)}")
        if self.target is not None and None in vars(self.sizes).values():
            raise ValueError(f"sizes: expected MIN:OPT:MAX for each, as plans have them, found {shown(vars(self.sizes))}")
        if self.check not in CHECKS:
            raise ValueError(f"check: expected one of {', '.join(CHECKS)}, found {shown(self.check)}")
        for network, outputs in self.parity.items():
            for output, figures in outputs.items():
                if not {"cosine", "max_abs_error"} <= figures.keys():
                    raise ValueError(f"parity.{network}.{output}: expected cosine and max_abs_error, found {shown(figures)}")
        concepts = [guard.concept for guard in self.guards]
        if len({*concepts}) < len(concepts):
            raise ValueError(f"guards: expected a concept of each one's own, found {shown(concepts)}")

    def files_of(self, network: str) -> dict[str, FileRecord]:
        """The files of one network, or of the tokenizer."""
        return {name: record for name, record in self.files.items() if name.startswith(f"{network}/")}

    def precision_of(self, network: str) -> str:
        """What a network computes in: not all follow `precision`."""
        decided = self.recipe.get(network, {})
        if "precision" not in decided:
            raise ManifestError(f"manifest: expected a precision in the recipe of {network}, found none; {REBUILD}")
        return str(decided["precision"])

    def write(self, folder: Path) -> None:
        """Write into a folder, atomically."""
        with replacing(Path(folder) / FILE_NAME) as temporary:
            temporary.write_text(json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _inside(name: str) -> str:
    """The name of a listed file. Raises ValueError for one that leaves the folder, or that can be written in another way."""
    if name == FILE_NAME or not name.isprintable() or "\\" in name or {"", ".", ".."} & {*name.split("/")}:
        raise ValueError(f"files: expected names inside the folder, found {name!r}")
    return name
