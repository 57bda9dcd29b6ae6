"""A copy of engines that ONNX Runtime loads several times faster, for one kind of CPU.

The graphs are optimised and the weights laid out for the CPU's kernels beforehand, in files that are mapped into memory, not
read: processes on one machine share them. Needs no PyTorch; run it on the machine that will run the engines.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

from engines.backends.registry import ONNX_FILE, backend_spec
from engines.errors import InputError
from engines.manifest import Manifest
from engines.parity import in_words
from engines.records import FileRecord
from engines.store.atomic import replacing_folder, sole_writer
from engines.store.engine_store import TOKENIZER_FILE, EngineStore
from engines.store.output_folder import check_apart, check_output
from engines.store.recorded_cases import FILE_NAME as RECORDED
from engines.store.recorded_cases import check_cases
from engines.store.signature import add_trusted_key_argument


def optimize(store: EngineStore, output: Path, command_line: str = "") -> Manifest:
    """Write the copy to `output`, compared with PyTorch's outputs that were recorded at build, and return its manifest.

    `command_line` is recorded in the manifest.

    Raises:
        InputError: the engines are not ONNX Runtime's for a CPU, or `output` is there and is not an engine folder.
        DigestError, ManifestError: a file is missing or altered.
        ParityError: an optimised network does not compute what PyTorch computed.
    """
    if not backend_spec(store.manifest.backend).can_optimize or store.manifest.optimized_for is not None:
        found = store.manifest.backend if store.manifest.optimized_for is None else "engines that are optimised already"
        raise InputError(f"{store.folder}: expected portable engines for onnxruntime, found {found}; only these can be optimised")
    check_apart(output, "--output", store.folder, "the engines'")
    check_output(output, "--output")
    from engines.backends.onnxruntime_cpu import OnnxRuntimeBackend

    backend = OnnxRuntimeBackend()
    with sole_writer(output, print), replacing_folder(output, lambda: check_output(output, "--output")) as folder:
        (folder / TOKENIZER_FILE).parent.mkdir()
        (folder / TOKENIZER_FILE).write_bytes(store.read(TOKENIZER_FILE))
        parity = {name: _optimize(store, name, backend, folder) for name in store.networks}
        manifest = dataclasses.replace(
            store.manifest,
            files=_records(folder),
            parity=parity,
            parity_of="engine",
            optimized_for=backend.device,
            compared_on=dict.fromkeys(parity, backend.device),
            recipe={name: recipe | {"optimized from": store.digest} for name, recipe in store.manifest.recipe.items()},
            command=command_line,
        )
        manifest.write(folder)
    return manifest


def _optimize(store: EngineStore, network: str, backend: Any, folder: Path) -> dict[str, dict[str, float]]:
    """Write one network and its recorded cases to `folder`; its parity figures."""
    started, spec, path = time.monotonic(), store.manifest.geometry.spec(network), folder / network / ONNX_FILE
    path.parent.mkdir()
    cases = store.cases(network)
    path.with_name(RECORDED).write_bytes(store.read(f"{network}/{RECORDED}"))
    model = store.open(network)
    backend.optimize(model.path, path, model.contents)
    model.check_unchanged()
    figures = check_cases(backend.load(path, spec), backend, cases, store.manifest.precision_of(network))
    print(f"{network:<13} {time.monotonic() - started:5.1f} s  parity: {in_words(figures)}")
    return figures


def _records(folder: Path) -> dict[str, FileRecord]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): FileRecord.of(path) for path in files}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("engine_dir", type=Path, help="folder made by saferedir build, for ONNX Runtime on a CPU")
    parser.add_argument("--output", type=Path, help="folder to write (default: ENGINE_DIR-optimized)")
    add_trusted_key_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the copy and print the device that it is for; exit status 0."""
    folder = arguments.engine_dir
    output = arguments.output or folder.with_name(folder.absolute().name + "-optimized")
    manifest = optimize(EngineStore(folder, arguments.trusted_key), output, arguments.command_line)
    print(f"{output}: for {manifest.optimized_for}")
    return 0
