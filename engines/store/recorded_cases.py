"""Inputs and PyTorch's outputs of a network, recorded at build: a device without PyTorch compares its engines with them."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engines.backends.contract import Backend, Engine, run_once
from engines.errors import ManifestError
from engines.parity import LIMITS, Figures, compare
from engines.store.atomic import replacing

FILE_NAME = "parity.npz"
_PARTS = ("sizes", "inputs", "outputs")


@dataclass(frozen=True)
class Case:
    """One call of a network: a number for each symbol of its spec, and its tensors by name."""

    sizes: Mapping[str, int]
    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]


def save_cases(path: Path, cases: Sequence[Case]) -> None:
    """Write as an .npz archive, atomically."""
    arrays = {
        f"{number}/{part}/{name}": np.asarray(value)
        for number, case in enumerate(cases)
        for part in _PARTS
        for name, value in getattr(case, part).items()
    }
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def load_cases(path: Path, content: bytes | None = None) -> list[Case]:
    """Read what `save_cases` wrote, or its `content` where it has been read; nothing in the file is executed.

    Raises:
        ManifestError: it is not such an archive.
    """
    cases: dict[int, dict[str, dict[str, np.ndarray]]] = {}
    try:
        with np.load(path if content is None else io.BytesIO(content), allow_pickle=False) as archive:
            for key in archive.files:
                number, part, name = key.split("/")
                cases.setdefault(int(number), {part: {} for part in _PARTS})[part][name] = archive[key]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ManifestError(f"{path}: expected recorded inputs and outputs, cannot be read: {error}") from None
    return [
        Case({name: int(size) for name, size in parts["sizes"].items()}, parts["inputs"], parts["outputs"])
        for _, parts in sorted(cases.items())
    ]


def check_cases(engine: Engine, backend: Backend, cases: Sequence[Case], precision: str) -> Figures:
    """Run an engine that computes in `precision` on every case; the worst figures of each output.

    Raises:
        ParityError: an output is not what PyTorch computed (see `engines.parity.compare`).
    """
    worst: Figures = {}
    for case in cases:
        outputs = run_once(engine, backend, case.inputs, case.sizes)
        for tensor in engine.spec.outputs:
            expected, name = case.outputs[tensor.name], f"{engine.spec.name}.{tensor.name}"
            figures = compare(name, expected, outputs[tensor.name], LIMITS[precision], tensor.varies)
            if tensor.name not in worst or figures["max_abs_error"] >= worst[tensor.name]["max_abs_error"]:
                worst[tensor.name] = figures
    return worst
