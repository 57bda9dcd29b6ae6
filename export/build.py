"""Builds a folder of engines: what changed is exported and gated, what did not is kept, and the folder is swapped whole."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engines.backends.tensorrt_module import BUILDERS, import_tensorrt
from engines.cuda.device import open_cuda
from engines.errors import InputError, ManifestError
from engines.install import install
from engines.manifest import FileRecord, Geometry, GuardRecord, Manifest, SourceRecord, Target, check_output
from engines.networks import ALWAYS_FLOAT32, GUARD_NETWORKS, NETWORKS
from engines.store.atomic import replacing_folder
from engines.store.digests import file_digest
from engines.store.engine_store import TOKENIZER
from export.build_options import BuildOptions
from export.network_build import COMPONENT_OF, TIMING_CACHE, build_network
from export.precision.choice import OPSETS, network_precisions
from export.sources.model_folder import Source, record
from export.tensorrt.shape_profile import Profile

ROOT = Path(__file__).resolve().parent.parent
# The code that decides what a network's file is.
CODE = (
    "export/onnx_file.py",
    "export/attention.py",
    "export/precision/half_precision.py",
    "export/precision/emulation.py",
    "export/wrappers.py",
    "export/network_build.py",
    "export/reference_cases.py",
    "engines/parity.py",
    "engines/networks.py",
)
PLAN_CODE = ("export/tensorrt/plan_builder.py", "export/tensorrt/shape_profile.py")
GUARD_CODE = ("saferedir/guard.py", "saferedir/heads.py", "saferedir/inference/algebra.py", "saferedir/inference/winograd.py")
LIBRARIES = ("torch", "diffusers", "transformers", "onnx", "onnxruntime", "tokenizers")
BACKEND_LIBRARIES = {"openvino": ("openvino",)}


Report = Callable[[str], None]


def build(options: BuildOptions, report: Report = print) -> Manifest:
    """Bring `options.engine_dir` up to date and return its manifest.

    A folder that is already what the options ask for is left alone. Otherwise the new one is made beside it and takes
    its place once every network has passed the parity gate; a failure leaves the previous engines as they were.

    Raises:
        InputError: the model, the checkpoint or an option cannot be used.
        ParityError: an exported network does not compute what PyTorch computes.
    """
    started, versions = time.monotonic(), _versions(options.backend)
    source, previous = Source.locate(options.model), _previous(options.engine_dir)
    manifest = _plan(source, options, previous, versions)
    changes = ["--force"] if options.force else _changes(previous, manifest, options.engine_dir)
    if previous is not None and not changes:
        report(f"{options.engine_dir}: nothing changed, nothing to build")
        return previous
    if previous is not None:
        report(f"{options.engine_dir}: rebuilding because of " + "; ".join(changes))
    with replacing_folder(options.engine_dir) as folder:
        manifest = _fill(folder, source, options, manifest, None if options.force else previous, report)
    report(f"{options.engine_dir}: built in {time.monotonic() - started:.1f} s")
    return manifest


def _previous(folder: Path) -> Manifest | None:
    """The manifest of what is there; None for nothing, or for engines whose manifest cannot be read."""
    check_output(folder, "--engine-dir")
    try:
        return Manifest.read(folder)[0]
    except ManifestError:
        return None


def _plan(source: Source, options: BuildOptions, previous: Manifest | None, versions: dict[str, str]) -> Manifest:
    """The manifest of the build that is asked for, still without files and parity figures."""
    known = previous.sources if previous is not None and previous.model == options.model else {}
    sources: dict[str, SourceRecord] = {}
    recipe: dict[str, dict[str, Any]] = {}
    profile = options.profile(source.geometry)
    target = None if profile is None else _target(options, profile)
    common = {
        "backend": options.backend,
        "versions": versions,
        "target": None if target is None else dataclasses.asdict(target),
        "code": _code_digest(CODE if target is None else (*CODE, *PLAN_CODE)),
    }
    for network, component in COMPONENT_OF.items():
        records = {
            f"{component}/{path.name}": record(path, known.get(f"{component}/{path.name}")) for path in source.files(component)
        }
        sources.update(records)
        recipe[network] = {**common, **{name: found.sha256 for name, found in records.items()}}
    recipe["sampler_step"] = {**common}
    guard = None
    if options.redirector is not None:
        if not options.redirector.is_file():
            raise InputError(f"{options.redirector}: expected a SafeRedir checkpoint, found no such file")
        sources["redirector"] = _redirector_record(options.redirector, previous)
        digest = sources["redirector"].sha256
        for network in GUARD_NETWORKS:
            recipe[network] = {
                **common,
                "redirector": digest,
                "mask_again": options.mask_again,
                "guard code": _code_digest(GUARD_CODE),
            }
        guard = GuardRecord(
            options.concept or options.redirector.stem, options.redirector.name, digest, options.mask_again, options.policy
        )
    for network, precision in _precisions(source, options).items():
        if network in recipe:
            recipe[network] |= {"precision": precision, "opset": OPSETS[precision if options.half_files else "float32"]}
    opset = max(recipe[network]["opset"] for network in NETWORKS.keys() & recipe.keys())
    return Manifest(
        model=options.model,
        sources=sources,
        geometry=_geometry(source.geometry, profile),
        scheduler=source.scheduler,
        guard=guard,
        backend=options.backend,
        precision=options.precision,
        opset=opset,
        versions=versions,
        files={},
        parity={},
        parity_of="onnx",
        recipe=recipe,
        target=target,
        command=options.command_line,
    )


def _precisions(source: Source, options: BuildOptions) -> dict[str, str]:
    """What each network computes in."""
    if options.half_files:
        return network_precisions(options.precision, source.config("unet"))
    return {network: "float32" if network in ALWAYS_FLOAT32 else options.precision for network in NETWORKS}


def _geometry(geometry: Geometry, profile: Profile | None) -> Geometry:
    """The model's, with the sizes that the engines prefer as defaults."""
    if profile is None:
        return geometry
    return dataclasses.replace(geometry, default_height=profile.height.optimum, default_width=profile.width.optimum)


def _target(options: BuildOptions, profile: Profile) -> Target:
    """What TensorRT engines will be tied to."""
    plan = options.plan
    library = f"{options.backend} {import_tensorrt(options.backend, BUILDERS).__version__}"
    if options.backend == "tensorrt-rtx":
        capabilities, gpu, driver = ", ".join(f"{sm[:-1]}.{sm[-1]}" for sm in plan.target_sm) or "portable", "", ""
    else:
        device = open_cuda().info()
        capabilities, gpu, driver = device.compute_capability, device.name, device.driver
    return Target(
        library,
        str(profile.batch),
        str(profile.height),
        str(profile.width),
        capabilities,
        gpu,
        driver,
        plan.hardware_compatibility,
        plan.version_compatible,
        plan.workspace_gib,
        plan.optimization_level,
        options.keep_onnx,
    )


def _redirector_record(path: Path, previous: Manifest | None) -> SourceRecord:
    same_file = previous is not None and previous.guard is not None and previous.guard.source == path.name
    return record(path, previous.sources.get("redirector") if previous is not None and same_file else None)


def _versions(backend: str) -> dict[str, str]:
    """Versions of everything that shapes a build, found without importing any of it."""
    extra = BACKEND_LIBRARIES.get(backend, ())
    try:
        return {"python": sys.version.split()[0], **{name: importlib.metadata.version(name) for name in (*LIBRARIES, *extra)}}
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError(
            f"{error.name}: expected, for building engines, found it not installed; install it with: "
            + install(backend if error.name in extra else "export")
        ) from None


def _code_digest(files: tuple[str, ...]) -> str:
    return hashlib.sha256("".join(file_digest(ROOT / name) for name in files).encode()).hexdigest()


def _changes(previous: Manifest | None, planned: Manifest, folder: Path) -> list[str]:
    """What makes the folder differ from the plan, one phrase each."""
    if previous is None:
        return ["no engines yet"]
    changes = []
    for network in sorted({*previous.recipe, *planned.recipe}):
        old, new = previous.recipe.get(network), planned.recipe.get(network)
        if old is None or new is None:
            changes.append(f"{network} {'added' if old is None else 'dropped'}")
        elif old != new:
            fields = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
            changes.append(f"{network} ({', '.join(fields)})")
        elif not _intact(previous, folder, network, digests=False):
            changes.append(f"{network} (files missing or altered)")
    for key in ("model", "precision", "geometry", "scheduler", "guard"):
        if getattr(previous, key) != getattr(planned, key):
            changes.append(key)
    return changes


def _intact(manifest: Manifest, folder: Path, network: str, digests: bool = True) -> bool:
    """Whether a network's files are as built: their sizes, and with `digests` their content."""
    files = manifest.files_of(network)
    return bool(files) and all(
        (path := folder / name).is_file()
        and path.stat().st_size == found.size
        and (not digests or file_digest(path) == found.sha256)
        for name, found in files.items()
    )


def _fill(
    folder: Path, source: Source, options: BuildOptions, manifest: Manifest, previous: Manifest | None, report: Report
) -> Manifest:
    """Keep what the previous engines have of the recipe, build the rest, and write the manifest."""
    if (timings := options.engine_dir / TIMING_CACHE).is_file() and options.backend == "tensorrt":
        shutil.copyfile(timings, folder / TIMING_CACHE)
    passed = True
    for number, network in enumerate(manifest.recipe, start=1):
        started, stage = time.monotonic(), f"[{number}/{len(manifest.recipe)}] {network:<13}"
        (folder / network).mkdir()
        if (
            previous is not None
            and previous.recipe.get(network) == manifest.recipe[network]
            and _intact(previous, options.engine_dir, network)
        ):
            manifest.files.update(previous.files_of(network))
            for name in previous.files_of(network):
                _link(options.engine_dir / name, folder / name)
            manifest.parity.update({network: previous.parity[network]} if network in previous.parity else {})
            passed &= previous.parity_of == "engine"
            report(f"{stage} unchanged, kept")
        else:
            figures: object = "ids equal to CLIPTokenizer's"
            if network == "tokenizer":
                _convert_tokenizer(source, folder)
            else:
                figures = parity = build_network(network, folder, source, options, manifest.precision_of(network))
                manifest.parity[network] = parity.figures
                passed &= parity.of_engine
            manifest.files.update({f"{network}/{path.name}": FileRecord.of(path) for path in sorted((folder / network).iterdir())})
            report(f"{stage} {time.monotonic() - started:5.1f} s  {figures}")
    if (timings := folder / TIMING_CACHE).is_file():
        manifest.files[TIMING_CACHE] = FileRecord.of(timings)
    of_file = "onnx" if options.precision == "float32" or not options.half_files else "emulated onnx"
    manifest = dataclasses.replace(manifest, parity_of="engine" if passed else of_file)
    manifest.write(folder)
    return manifest


def _convert_tokenizer(source: Source, folder: Path) -> None:
    from export.tokenizer import convert_tokenizer

    convert_tokenizer(source.load("tokenizer")).save(str(folder / TOKENIZER))


def _link(origin: Path, copy: Path) -> None:
    try:
        os.link(origin, copy)
    except OSError:  # file systems without hard links
        shutil.copyfile(origin, copy)
