"""Builds a folder of engines: exports and compares what changed, keeps what did not, and replaces the folder as a whole."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.specifiers import SpecifierSet

from engines.backends.registry import BackendSpec, backend_spec
from engines.canary import CanaryRecord
from engines.errors import InputError
from engines.geometry import Geometry
from engines.install import install
from engines.manifest import Manifest
from engines.parity import Figures
from engines.records import FileRecord, GuardRecord, SourceRecord
from engines.store.atomic import recover_folder, replacing_folder, sole_writer
from engines.store.engine_store import TOKENIZER_FILE
from engines.store.output_folder import check_apart, check_output
from engines.store.signature import SIGN, SIGNATURE_FILE
from export.build_network import TIMING_CACHE, build_network
from export.build_request import BuildRequest
from export.canaries import with_answers
from export.exported_networks import EXPORTED_NETWORKS, TOKENIZER, resolve
from export.jobs import Inputs, Job, NetworkJob, Report, TokenizerJob, jobs_of, source_name
from export.previous import Previous, changes_of, read_previous
from export.sources.edits import source_names
from export.sources.model_folder import SCHEDULER_FILE, Source
from export.sources.scheduler_config import changes
from export.tensorrt.shape_profile import Profile
from export.tensorrt.target import target_of

LIBRARIES = ("torch", "diffusers", "transformers", "onnx", "onnxruntime", "tokenizers")
# What diffusers needs of transformers, and what export and tokenizer were tried with.
SUPPORTED = {"transformers": ">=4.48,<5"}
KEPT = "unchanged, kept"


def build(options: BuildRequest, report: Report = print) -> Manifest:
    """Bring `options.engine_dir` up to date and return its manifest.

    A folder that is already what the options ask for is left alone. Otherwise the new one is made beside it and takes
    its place once every network has passed the parity gate; a failure leaves the previous engines as they were.

    Raises:
        InputError: the model, the checkpoint or an option cannot be used.
        ParityError: an exported network does not compute what PyTorch computes.
        CanaryError: the guard judges a canary wrongly.
    """
    started, versions = time.monotonic(), _versions(backend_spec(options.backend))
    source = Source.locate(options.model, options.config, options.vae)
    for read in source.places:
        check_apart(options.engine_dir, "--engine-dir", read, "the model's")
    recover_folder(options.engine_dir)
    previous = read_previous(options.engine_dir)
    inputs = _read(options, source, versions)
    jobs = jobs_of(options, inputs)
    wanted = _wanted(options, inputs, jobs)
    if previous is not None and not _differences(previous, wanted, options):
        report(f"{options.engine_dir}: nothing changed, nothing to build")
        return previous
    with sole_writer(options.engine_dir, report):
        previous = read_previous(options.engine_dir)  # another process may have built them meanwhile
        differences = _differences(previous, wanted, options)
        if previous is not None and not differences:
            report(f"{options.engine_dir}: nothing changed, nothing to build")
            return previous
        if previous is not None:
            report(f"{options.engine_dir}: rebuilding because of " + "; ".join(differences))
        signed = (options.engine_dir / SIGNATURE_FILE).is_file()
        kept = Previous(options.engine_dir, None if options.force else previous)
        fitting = {job.name: kept.fits(job) for job in jobs}
        _judge_scheduler(options, source, report)
        for job in jobs:
            if fitting[job.name] is None:
                _read_once(job, report)
        manifest = _build_folder(options, jobs, wanted, kept, fitting, report)
    report(f"{options.engine_dir}: built in {time.monotonic() - started:.1f} s")
    if signed:
        report(f"{options.engine_dir}: the signature of the previous engines was dropped; {SIGN}")
    return manifest


def _differences(previous: Manifest | None, wanted: Manifest, options: BuildRequest) -> list[str]:
    return ["--force"] if options.force else changes_of(previous, wanted, options.engine_dir)


def _build_folder(
    options: BuildRequest,
    jobs: Sequence[Job],
    wanted: Manifest,
    kept: Previous,
    fitting: Mapping[str, Manifest | None],
    report: Report,
) -> Manifest:
    """Make a folder of engines beside the previous one and let it take that one's place."""
    with replacing_folder(options.engine_dir, lambda: check_output(options.engine_dir, "--engine-dir")) as folder:
        _keep_timings(kept.folder, folder, options.backend)
        built = {}
        for number, job in enumerate(jobs, 1):
            stage, manifest = f"[{number}/{len(jobs)}] {job.name:<13}", fitting[job.name]
            built[job.name] = _build(job, folder, stage, report) if manifest is None else _keep(job, folder, kept, manifest)
            if manifest is not None:
                report(f"{stage} {KEPT}")
        manifest = with_answers(_filled(wanted, folder, built), folder, report)
        manifest.write(folder)
    return manifest


def _judge_scheduler(options: BuildRequest, source: Source, report: Report) -> None:
    """Say how the model's scheduler is read, and whether the runtime can honour it. Raises InputError where no sampler can."""
    for note in source.notes():
        report(f"{source.name}: {note}")
    path = source.path("scheduler", SCHEDULER_FILE)
    if corrections := changes(source.config("scheduler", SCHEDULER_FILE), source.scheduler):
        report(f"{path}: as in diffusers' pipeline, {', '.join(corrections)}")
    try:
        judged = None if options.judge_scheduler is None else options.judge_scheduler(source.scheduler)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if judged is not None:
        report(f"{path}: {judged}")


def _versions(backend: BackendSpec) -> dict[str, str]:
    """Versions of every library that decides a build, read without importing any."""
    names = dict.fromkeys((*LIBRARIES, *backend.libraries))
    try:
        found = {name: importlib.metadata.version(name) for name in names}
    except importlib.metadata.PackageNotFoundError as error:
        extra = "export" if error.name in LIBRARIES else backend.extra
        raise InputError(
            f"{error.name}: expected, for building engines, found it not installed; install it with: " + install(extra)
        ) from None
    for name, versions in SUPPORTED.items():
        if not SpecifierSet(versions).contains(found.get(name, "0"), prereleases=True):
            raise InputError(f"{name}: expected {versions}, found {found.get(name)}; install it with: " + install("export"))
    return {"python": sys.version.split()[0], **found}


def _read(options: BuildRequest, source: Source, versions: dict[str, str]) -> Inputs:
    """Digests of all that decides the engines."""
    components = dict.fromkeys((TOKENIZER.component, *(row.component for row in EXPORTED_NETWORKS if row.component is not None)))
    sources = {
        name: SourceRecord.of(path)
        for component in components
        for path in source.files(component)
        for name in (f"{component}/{path.name}",)
    }
    sources |= {name: _record(edit.path, "a file of weights") for name, edit in source_names(options.edits).items()}
    sources |= {
        source_name(checkpoint): _record(checkpoint.path, "a SafeRedir checkpoint", True) for checkpoint in options.checkpoints
    }
    profile = options.profile(source.geometry)
    return Inputs(source, sources, versions, None if profile is None else target_of(options, profile))


def _record(path: Path, what: str, always_read: bool = False) -> SourceRecord:
    """Of a file that is named on the command line; `what` it should be, in words."""
    if not path.is_file():
        raise InputError(f"{path}: expected {what}, found no such file")
    return SourceRecord.of(path, always_read)


def _wanted(options: BuildRequest, inputs: Inputs, jobs: list[Job]) -> Manifest:
    """The manifest of the build that is asked for, still without files and parity figures."""
    return Manifest(
        model=options.model,
        sources=dict(inputs.sources),
        geometry=_geometry(inputs.source.geometry, options.profile(inputs.source.geometry)),
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
        command=options.command_line,
        check=options.check,
    )


def _geometry(geometry: Geometry, profile: Profile | None) -> Geometry:
    """The model's, with the sizes that the engines prefer as defaults."""
    if profile is None:
        return geometry
    return dataclasses.replace(geometry, default_height=profile.height.optimum, default_width=profile.width.optimum)


@dataclass(frozen=True)
class _Built:
    """Files of one job, relative to the engine folder, and for a network the figures of its parity."""

    files: dict[str, FileRecord]
    figures: Figures | None
    of_engine: bool


def _read_once(job: Job, report: Report) -> None:
    """Read what the job is made from, so that a file that cannot be used is known before any network is exported."""
    if isinstance(job, TokenizerJob):
        job.load()
    else:
        job.module(say=report)


def _keep(job: Job, folder: Path, kept: Previous, manifest: Manifest) -> _Built:
    """The job's files of the previous build, in `folder`."""
    (folder / job.name).mkdir()
    files = manifest.files_of(job.name)
    kept.link(files, folder)
    return _Built(files, manifest.parity.get(job.name), manifest.parity_of == "engine")


def _build(job: Job, folder: Path, stage: str, report: Report) -> _Built:
    """The job's files, made in `folder`."""
    started, path = time.monotonic(), folder / job.name
    path.mkdir()
    if isinstance(job, TokenizerJob):
        _convert_tokenizer(job, folder)
        figures, of_engine, text = None, True, "ids equal to CLIPTokenizer's"
    else:
        parity = build_network(job, folder)
        figures, of_engine, text = parity.figures, parity.of_engine, str(parity)
    report(f"{stage} {time.monotonic() - started:5.1f} s  {text}")
    return _Built({f"{job.name}/{file.name}": FileRecord.of(file) for file in sorted(path.iterdir())}, figures, of_engine)


def _convert_tokenizer(job: TokenizerJob, folder: Path) -> None:
    (folder / TOKENIZER_FILE).write_text(resolve(job.row.maker)(job.load()).to_str(pretty=True), encoding="utf-8")


def _filled(wanted: Manifest, folder: Path, built: dict[str, _Built]) -> Manifest:
    """The manifest of what was built."""
    files = {name: record for done in built.values() for name, record in done.files.items()}
    if (timings := folder / TIMING_CACHE).is_file():
        files[TIMING_CACHE] = FileRecord.of(timings)
    half_files = any(
        backend_spec(wanted.backend).file_precision(recipe.get("precision", "float32")) != "float32"
        for recipe in wanted.recipe.values()
    )
    passed = all(done.of_engine for done in built.values())
    return dataclasses.replace(
        wanted,
        files=files,
        parity={name: done.figures for name, done in built.items() if done.figures is not None},
        parity_of="engine" if passed else "emulated onnx" if half_files else "onnx",
    )


def _keep_timings(previous: Path, folder: Path, backend: str) -> None:
    """TensorRT's kernel timings, for the next build to use."""
    if (timings := previous / TIMING_CACHE).is_file() and backend == "tensorrt":
        shutil.copyfile(timings, folder / TIMING_CACHE)
