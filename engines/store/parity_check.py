"""Engines compared with PyTorch on the device that runs them, without PyTorch: after the digests of their files."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from engines.backends.contract import Backend
from engines.backends.registry import open_backend
from engines.errors import ParityError
from engines.manifest import Manifest
from engines.parity import Figures
from engines.prompts import PromptTokenizer
from engines.store.atomic import replacing
from engines.store.canaries import RUN_BY, print_canaries
from engines.store.engine_store import TOKENIZER_FILE, EngineStore
from engines.store.polygraphy_check import print_comparison
from engines.store.recorded_cases import check_cases
from engines.store.signature import add_trusted_key_argument
from engines.store.user_cache import cache_folder


def check_parity(store: EngineStore, backend: Backend, network: str) -> Figures:
    """Load an engine, run it on its recorded inputs, and let it go; output → figures.

    Raises:
        ParityError: an output is not PyTorch's.
        BackendError: the backend refuses the engine.
        DigestError, ManifestError: a file of it is missing or altered.
    """
    engine = store.load([network], backend)[network]
    return check_cases(engine, backend, store.cases(network), store.manifest.precision_of(network))


def ensure_parity(store: EngineStore, backend: Backend, networks: Sequence[str]) -> None:
    """Compare with PyTorch what must pass on this device and has not, be it at the build or at an earlier load.

    One engine is in memory at a time. What passed is remembered in the user's cache folder by manifest, device and networks; a
    failure is not remembered.

    Raises:
        ParityError: an engine does not compute on this device what PyTorch computed.
        BackendError, DigestError, ManifestError: as `check_parity`.
    """
    to_compare = [name for name in networks if _must_pass(store.manifest, name, backend.device)]
    if not to_compare:
        return
    passed = {"manifest": store.digest, "device": backend.device, "networks": sorted(to_compare)}
    text = json.dumps(passed, sort_keys=True)
    name = f"parity-{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
    try:
        marker = cache_folder() / name
        if marker.is_file():
            return
    except OSError:
        marker = None
    try:
        for network in to_compare:
            check_parity(store, backend, network)
    except ParityError as error:
        raise ParityError(f"{store.folder}: {error} on {backend.device}; build them there, or with another --precision") from None
    if marker is not None:
        with suppress(OSError), replacing(marker) as temporary:  # a full disk: the next start compares again
            temporary.write_text(text + "\n", encoding="utf-8")


def _must_pass(manifest: Manifest, network: str, device: str) -> bool:
    """Whether an engine was never compared as one, or is int8 and was compared on another kind of device.

    Kernels for integers are others on each kind of processor, and some overflow where others do not; with floating point they
    differ by rounding.
    """
    compared_on = manifest.compared_on.get(network)
    return compared_on is None or (manifest.precision_of(network) == "int8" and compared_on != device)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("engine_dir", type=Path, help="folder made by saferedir build")
    parser.add_argument(
        "--polygraphy",
        action="store_true",
        help="compare with the ONNX files on a CPU by Polygraphy, not with PyTorch's recorded outputs",
    )
    add_trusted_key_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the figures of every network and what the guard says of its canaries; exit status 0."""
    store = EngineStore(arguments.engine_dir, arguments.trusted_key)
    backend = open_backend(store.manifest.backend, store.manifest.precision)
    if arguments.polygraphy:
        print_comparison(store, backend)
        return 0
    print(f"{store.folder} on {backend.device}\n{'network':<14} {'output':<18} {'cosine':>9}  {'error':>8}")
    for name in store.networks:
        for output, figures in check_parity(store, backend, name).items():
            print(f"{name:<14} {output:<18} {figures['cosine']:9.6f}  {figures['max_abs_error']:8.1e}")
    if any(guard.canaries for guard in store.manifest.guards):
        tokenizer = PromptTokenizer(store.folder / TOKENIZER_FILE, store.read(TOKENIZER_FILE))
        print_canaries(store.manifest, backend, store.load(RUN_BY, backend), tokenizer)
    return 0
