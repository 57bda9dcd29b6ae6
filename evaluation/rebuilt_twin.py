"""The twin of a folder of engines: rebuilt from what the manifest says they were built from, and compared with them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from engines.backends.contract import run_once
from engines.backends.registry import open_backend
from engines.errors import DigestError, ManifestError
from engines.manifest import Manifest
from engines.parity import LIMITS, Figures, compare
from engines.printable import shortened, shown
from engines.records import SourceRecord
from engines.store.engine_store import EngineStore
from evaluation.twin import Twin
from export.build_command import options
from export.build_request import BuildRequest
from export.inputs import Inputs, read_sources
from export.jobs import NetworkJob, TokenizerJob, jobs_of
from export.sources.locate import find_model
from saferedir.cli import parse

CPU = torch.device("cpu")
COMPARED = ("text_encoder", "unet", "vae_decoder", "guard")  # networks whose twin has weights that pictures depend on


def rebuild_twin(store: EngineStore, device: torch.device = CPU) -> Twin:
    """The networks of guarded engines, from the files that they were built from, in float32, on a device.

    On CUDA, this process computes convolutions without TF32 from then on: PyTorch allows it, engines in float32 do not.

    Model, checkpoints, LoRAs and the like are those of the manifest's build command, read as the build reads them. Relative paths
    in it start at the working directory.

    Raises:
        ManifestError: engines without a guard, or without the command that built them.
        DigestError: a file is not the one that they were built from.
        ParityError: a network does not compute what its engine does.
        InputError: a file is missing.
    """
    store.require_guard()
    request = _request(store.manifest)
    source = find_model(request.model, request.config, request.vae)
    sources = read_sources(request, source)
    _check_sources(store.manifest, sources)
    modules: dict[str, Any] = {}
    for job in jobs_of(request, Inputs(source, sources, {}, store.manifest.sizes, None)):
        if isinstance(job, TokenizerJob):
            tokenizer = job.load()
        elif isinstance(job, NetworkJob) and job.name in COMPARED:
            modules[job.name] = job.module().to(device)
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
    check_twin(store, modules)
    manifest = store.manifest
    return Twin(
        **modules,
        tokenizer=tokenizer,
        policies=[guard.policy for guard in manifest.guards],
        scheduler=manifest.scheduler,
        geometry=manifest.geometry,
        check=manifest.check,
    )


def _request(manifest: Manifest) -> BuildRequest:
    """What the build command asked for."""
    try:
        line = shlex.split(manifest.command)
    except ValueError:
        line = []
    if line[:2] != ["saferedir", "build"]:
        raise ManifestError(
            f"manifest: command: expected that of saferedir build, found {shown(manifest.command)}; build the engines with it"
        )
    return options(parse(line[1:]))


def _check_sources(manifest: Manifest, found: Mapping[str, SourceRecord]) -> None:
    """Raise DigestError unless these are the files that the engines were built from."""
    if wrong := [name for name in sorted({*manifest.sources, *found}) if manifest.sources.get(name) != found.get(name)]:
        raise DigestError(
            f"twin: expected the files that the engines were built from, found others: {shortened(wrong)}; restore them, run it "
            "where the build ran, or rebuild with: saferedir build --force"
        )


@torch.no_grad()
def check_twin(store: EngineStore, modules: Mapping[str, Any]) -> dict[str, Figures]:
    """Run modules, where they are, and engines on the recorded inputs of each network; network → output → figures.

    Raises:
        ParityError: an output differs by more than the network's precision allows.
    """
    backend = open_backend(store.manifest.backend, store.manifest.precision)
    figures: dict[str, Figures] = {}
    for name, module in modules.items():
        engine = store.load([name], backend)[name]
        device = next(module.parameters()).device
        limits = LIMITS[store.manifest.precision_of(name)]
        for case in store.cases(name):
            given = [torch.tensor(case.inputs[tensor.name], device=device) for tensor in engine.spec.inputs]
            expected, actual = _arrays(module(*given)), run_once(engine, backend, case.inputs, case.sizes)
            for tensor, values in zip(engine.spec.outputs, expected, strict=True):
                found = compare(f"twin of {name}.{tensor.name}", values, actual[tensor.name], limits, tensor.varies)
                figures.setdefault(name, {})[tensor.name] = found
    return figures


def _arrays(outputs: torch.Tensor | Sequence[torch.Tensor]) -> list[np.ndarray]:
    values = [outputs] if isinstance(outputs, torch.Tensor) else outputs
    return [value.cpu().numpy() for value in values]
