"""The manifest of a build: what is asked for, and, once its files are there, what was built."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engines.canary import CanaryRecord
from engines.geometry import Geometry
from engines.manifest import Manifest
from engines.parity import Figures
from engines.records import FileRecord, GuardRecord
from engines.sizes import Sizes
from export.build_network import TIMING_CACHE
from export.build_request import BuildRequest
from export.inputs import Inputs, source_name
from export.jobs import Job, NetworkJob


@dataclass(frozen=True)
class Built:
    """Files of one job, relative to the engine folder, for a network the figures of its parity, and the device of its comparison.

    `compared_on` is None where the engine cannot run here, and of the tokenizer, whose figures are None, too.
    """

    files: dict[str, FileRecord]
    figures: Figures | None
    compared_on: str | None


def wanted_manifest(options: BuildRequest, inputs: Inputs, jobs: Sequence[Job]) -> Manifest:
    """The manifest of the build that is asked for, still without files and parity figures."""
    return Manifest(
        model=options.model,
        sources=dict(inputs.sources),
        geometry=_geometry(inputs.source.geometry, inputs.sizes),
        scheduler=inputs.source.scheduler,
        guards=[
            GuardRecord(
                concept=checkpoint.concept,
                checkpoint=checkpoint.path.name,
                digest=inputs.sources[source_name(checkpoint)].sha256,
                mask_again=checkpoint.mask_again,
                policy=checkpoint.policy,
                final_check=checkpoint.final_check,
                canaries=[CanaryRecord(**vars(canary)) for canary in checkpoint.canaries],
            )
            for checkpoint in options.checkpoints
        ],
        backend=options.backend,
        precision=options.precision,
        opset=max(job.recipe["opset"] for job in jobs if isinstance(job, NetworkJob)),
        versions=dict(inputs.versions),
        files={},
        parity={},
        parity_of="onnx",
        recipe={job.name: job.recipe for job in jobs},
        target=inputs.target,
        sizes=inputs.sizes,
        command=options.command_line,
        check=options.check,
    )


def _geometry(geometry: Geometry, sizes: Sizes) -> Geometry:
    """The model's, with the sizes that the engines prefer as defaults."""
    preferred = {f"default_{name}": span.optimum for name in ("height", "width") if (span := sizes.span(name)) is not None}
    return dataclasses.replace(geometry, **preferred)


def filled(wanted: Manifest, folder: Path, built: Mapping[str, Built]) -> Manifest:
    """The manifest of what was built."""
    files = {name: record for done in built.values() for name, record in done.files.items()}
    if (timings := folder / TIMING_CACHE).is_file():
        files[TIMING_CACHE] = FileRecord.of(timings)
    half = any(recipe.get("precision", "float32") != "float32" for recipe in wanted.recipe.values())
    compared_on = {name: done.compared_on for name, done in built.items() if done.compared_on is not None}
    passed = all(name in compared_on for name, done in built.items() if done.figures is not None)
    return dataclasses.replace(
        wanted,
        files=files,
        parity={name: done.figures for name, done in built.items() if done.figures is not None},
        parity_of="engine" if passed else "emulated onnx" if half else "onnx",
        compared_on=compared_on,
    )
