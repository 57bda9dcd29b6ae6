"""manifest.json: what was built, from what, for what, and the digest of every file of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from engines.errors import DigestError, ManifestError
from engines.geometry import Geometry
from engines.policy import Policy
from engines.records import FileRecord, GuardRecord, SourceRecord, Target
from engines.store.atomic import replacing

FILE_NAME = "manifest.json"
FORMAT = 3
REBUILD = "rebuild with: saferedir build --force"


@dataclass(frozen=True)
class Manifest:
    """Everything about a folder of engines.

    sources        each file that was read, relative to the model
    guards         the concepts of the guard, in the order of its dimension K; empty for engines without a guard
    files          each written file, relative to this folder
    parity         network → output → {"cosine", "max_abs_error"} against PyTorch
    parity_of      what was compared: "engine", or "onnx" or "emulated onnx" (half precision on a CPU) for engines that must still
                   pass on the device that will run them
    recipe         network → all that determines its files, compared field by field to tell what must be built again
    target         what TensorRT engines are tied to
    check          when the guard looks unless a call says otherwise: "before" or "beside" the UNet of a step, or "auto"
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
    check: str = "auto"
    optimized_for: str | None = None
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
        except OSError as error:
            raise ManifestError(f"{path}: no engines here ({error.strerror}); build them with: saferedir build") from None
        digest = hashlib.sha256(content).hexdigest()
        if signed not in (None, digest):
            raise DigestError(f"{path}: altered: expected the SHA-256 that was signed, {signed}, found {digest}; {REBUILD}")
        try:
            parsed = json.loads(content)
            if parsed.get("format") != FORMAT:
                raise ManifestError(
                    f"{path}: expected format {FORMAT}, found {parsed.get('format')!r}; rebuild with: "
                    f"saferedir build --engine-dir {folder} and the options of its first build"
                )
            manifest = cls._from_json(parsed)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ManifestError(f"{path}: not a valid manifest ({error}); {REBUILD}") from None
        return manifest, digest

    @classmethod
    def _from_json(cls, parsed: dict[str, Any]) -> Manifest:
        fields = dict(parsed)
        fields["geometry"] = Geometry(**parsed["geometry"])
        fields["guards"] = [GuardRecord(**{**guard, "policy": Policy(**guard["policy"])}) for guard in parsed["guards"]]
        fields["target"] = None if parsed["target"] is None else Target(**parsed["target"])
        fields["files"] = {_inside(name): FileRecord(**record) for name, record in parsed["files"].items()}
        fields["sources"] = {name: SourceRecord(**record) for name, record in parsed["sources"].items()}
        return cls(**fields)

    def files_of(self, network: str) -> dict[str, FileRecord]:
        """The files of one network, or of the tokenizer."""
        return {name: record for name, record in self.files.items() if name.startswith(f"{network}/")}

    def precision_of(self, network: str) -> str:
        """What a network computes in: not all follow `precision`."""
        return str(self.recipe[network]["precision"])

    def write(self, folder: Path) -> None:
        """Write into a folder, atomically."""
        with replacing(Path(folder) / FILE_NAME) as temporary:
            temporary.write_text(json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _inside(name: str) -> str:
    """The name of a listed file. Raises ValueError for one that leaves the folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"files: expected names inside the folder, found {name!r}")
    return name
