"""What decides a build: the digests of all that it reads, the versions of libraries, and what plans are tied to."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.specifiers import SpecifierSet

from engines.backends.registry import BackendSpec, backend_spec
from engines.errors import InputError
from engines.install import install
from engines.records import SourceRecord, Target
from engines.sizes import Sizes
from export.build_request import BuildRequest, Checkpoint
from export.exported_networks import EXPORTED_NETWORKS, TOKENIZER
from export.sources.edits import source_names
from export.sources.model_folder import Source
from export.tensorrt.target import target_of

QUANTIZERS = ("nncf", "torchmetrics")  # for int8: what quantises, and what compares pictures
LIBRARIES = ("torch", "diffusers", "transformers", "onnx", "onnxruntime", "tokenizers")
OF_ONE_MODULE = {"onnxruntime": "onnxruntime-gpu"}  # another distribution of the same module, which takes the first one's place
# What diffusers needs of transformers, and what export and tokenizer were tried with.
SUPPORTED = {"transformers": ">=4.48,<5"}


@dataclass(frozen=True)
class Inputs:
    """What jobs are decided by: files of the model and checkpoints as read, library versions, sizes, what plans are tied to."""

    source: Source
    sources: Mapping[str, SourceRecord]
    versions: Mapping[str, str]
    sizes: Sizes
    target: Target | None

    def digests(self, component: str) -> dict[str, str]:
        """File → SHA-256 of one component."""
        return {name: record.sha256 for name, record in self.sources.items() if name.startswith(f"{component}/")}


def library_versions(backend: BackendSpec, precision: str) -> dict[str, str]:
    """Versions of every library that decides a build, read without importing any."""
    names = dict.fromkeys((*LIBRARIES, *backend.libraries, *(QUANTIZERS if precision == "int8" else ())))
    try:
        found = {name: _version(name) for name in names}
    except importlib.metadata.PackageNotFoundError as error:
        extra = "quantize" if error.name in QUANTIZERS else "export" if error.name in LIBRARIES else backend.extra
        raise InputError(
            f"{error.name}: expected, for building engines, found it not installed; install it with: " + install(extra)
        ) from None
    for name, versions in SUPPORTED.items():
        if not SpecifierSet(versions).contains(found.get(name, "0"), prereleases=True):
            raise InputError(f"{name}: expected {versions}, found {found.get(name)}; install it with: " + install("export"))
    return {"python": sys.version.split()[0], **found}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        if name not in OF_ONE_MODULE:
            raise
        return importlib.metadata.version(OF_ONE_MODULE[name])


def read_inputs(options: BuildRequest, source: Source, versions: dict[str, str]) -> Inputs:
    """Digests of all that decides the engines."""
    sizes = options.sizes(source.geometry)
    target = target_of(options) if backend_spec(options.backend).plans else None
    return Inputs(source, read_sources(options, source), versions, sizes, target)


def read_sources(options: BuildRequest, source: Source) -> dict[str, SourceRecord]:
    """The files that the engines are made from, by their names in a manifest. Raises InputError where one is missing."""
    components = dict.fromkeys((TOKENIZER.component, *(row.component for row in EXPORTED_NETWORKS if row.component is not None)))
    sources = {
        name: SourceRecord.of(path)
        for component in components
        for path in source.files(component)
        for name in (f"{component}/{path.name}",)
    }
    sources |= {name: _record(edit.path, "a file of weights") for name, edit in source_names(options.edits).items()}
    return sources | {
        source_name(checkpoint): _record(checkpoint.path, "a SafeRedir checkpoint", True) for checkpoint in options.checkpoints
    }


def _record(path: Path, what: str, always_read: bool = False) -> SourceRecord:
    """Of a file that is named on the command line; `what` it should be, in words."""
    if not path.is_file():
        raise InputError(f"{path}: expected {what}, found no such file")
    return SourceRecord.of(path, always_read)


def source_name(checkpoint: Checkpoint) -> str:
    """The name of a checkpoint among the sources of a manifest."""
    return f"redirector/{checkpoint.concept}"
