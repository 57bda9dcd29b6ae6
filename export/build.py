"""Builds a folder of engines: exports and compares what changed, keeps what did not, and replaces the folder as a whole."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from engines.backends.registry import backend_spec
from engines.errors import InputError
from engines.manifest import Manifest
from engines.records import FileRecord
from engines.store.atomic import recover_folder, replacing_folder, sole_writer
from engines.store.engine_store import TOKENIZER_FILE
from engines.store.output_folder import check_apart, check_output
from engines.store.signature import SIGN, SIGNATURE_FILE
from export.build_network import TIMING_CACHE, build_network
from export.build_request import BuildRequest
from export.canaries import with_answers
from export.exported_networks import resolve
from export.inputs import library_versions, read_inputs
from export.jobs import Job, NetworkJob, Report, TokenizerJob, jobs_of, silent
from export.new_manifest import Built, filled, wanted_manifest
from export.previous import Previous, changes_of, read_previous
from export.quantization import Quantization, Sample
from export.sources.locate import find_model
from export.sources.model_folder import SCHEDULER_FILE, Source
from export.sources.scheduler_config import changes

KEPT = "unchanged, kept"
FLOAT32 = ".float32"  # folder inside the new one


def build(options: BuildRequest, report: Report = print) -> Manifest:
    """Bring `options.engine_dir` up to date and return its manifest.

    A folder that is already what the options ask for is left alone. Otherwise the new one is made beside it and takes
    its place once every network has passed the parity gate; a failure leaves the previous engines as they were.

    Raises:
        InputError: the model, the checkpoint or an option cannot be used.
        ParityError: an exported network does not compute what PyTorch computes.
        CanaryError: the guard judges a canary wrongly.
        DecisionError: int8 engines decide otherwise than float32 ones.
    """
    started, versions = time.monotonic(), library_versions(backend_spec(options.backend), options.precision)
    source = find_model(options.model, options.config, options.vae)
    for read in source.places:
        check_apart(options.engine_dir, "--engine-dir", read, "the model's")
    recover_folder(options.engine_dir)
    previous = read_previous(options.engine_dir)
    inputs = read_inputs(options, source, versions)
    jobs = jobs_of(options, inputs)
    wanted = wanted_manifest(options, inputs, jobs)
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
        float32 = _float32_engines(options, folder, jobs, fitting, report)
        samples = _samples(options, float32, [job.name for job in jobs if _is_quantized(job) and fitting[job.name] is None])
        built = {}
        for number, job in enumerate(jobs, 1):
            stage, manifest = f"[{number}/{len(jobs)}] {job.name:<13}", fitting[job.name]
            if manifest is None:
                built[job.name] = _build(job, folder, stage, report, samples.get(job.name, ()))
            else:
                built[job.name] = _keep(job, folder, kept, manifest)
                report(f"{stage} {KEPT}")
        manifest = with_answers(filled(wanted, folder, built), folder, report)
        if options.quantization is not None:
            manifest = _with_decisions(options.quantization, manifest, folder, float32, kept, report)
        manifest.write(folder)
    return manifest


def _is_quantized(job: Job) -> bool:
    return isinstance(job, NetworkJob) and job.precision == "int8"


def _float32_engines(
    options: BuildRequest, folder: Path, jobs: Sequence[Job], fitting: Mapping[str, Manifest | None], report: Report
) -> Path | None:
    """Float32 engines of the same model and guards, in `folder` for the time of the build; None where nothing is quantised.

    Calibration records them, and int8 engines are compared with them.
    """
    if not any(_is_quantized(job) and fitting[job.name] is None for job in jobs):
        return None
    float32 = folder / FLOAT32 / "engines"
    float32.parent.mkdir()
    request = dataclasses.replace(
        options,
        engine_dir=float32,
        backend="onnxruntime",
        precision="float32",
        quantization=None,
        judge_scheduler=None,
        batch_size=None,
        height=None,
        width=None,
    )
    build(request, silent)
    report("float32 engines to calibrate by: built")
    return float32


def _samples(options: BuildRequest, float32: Path | None, networks: Sequence[str]) -> Mapping[str, Sequence[Sample]]:
    """What ranges of the networks are measured on."""
    if float32 is None or options.quantization is None:
        return {}
    return options.quantization.samples(float32, networks)


def _with_decisions(
    quantization: Quantization, manifest: Manifest, folder: Path, float32: Path | None, kept: Previous, report: Report
) -> Manifest:
    """The manifest with what its engines, which are in `folder`, decide beside float32 ones. Raises DecisionError."""
    if float32 is None:
        decisions = None if kept.manifest is None else kept.manifest.decisions
    else:
        manifest.write(folder)
        decisions = quantization.decisions(float32, folder, report)
        shutil.rmtree(float32.parent)
    return dataclasses.replace(manifest, decisions=decisions)


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


def _read_once(job: Job, report: Report) -> None:
    """Read what the job is made from, so that a file that cannot be used is known before any network is exported."""
    if isinstance(job, TokenizerJob):
        job.load()
    else:
        job.module(say=report)


def _keep(job: Job, folder: Path, kept: Previous, manifest: Manifest) -> Built:
    """The job's files of the previous build, in `folder`."""
    (folder / job.name).mkdir()
    files = manifest.files_of(job.name)
    kept.link(files, folder)
    return Built(files, manifest.parity.get(job.name), manifest.compared_on.get(job.name))


def _build(job: Job, folder: Path, stage: str, report: Report, samples: Sequence[Sample]) -> Built:
    """The job's files, made in `folder`; those of an int8 network calibrated by `samples`."""
    started, path = time.monotonic(), folder / job.name
    path.mkdir()
    if isinstance(job, TokenizerJob):
        _convert_tokenizer(job, folder)
        figures, compared_on, text = None, None, "ids equal to CLIPTokenizer's"
    else:
        parity = build_network(job, folder, samples)
        figures, compared_on, text = parity.figures, parity.device, str(parity)
    report(f"{stage} {time.monotonic() - started:5.1f} s  {text}")
    return Built({f"{job.name}/{file.name}": FileRecord.of(file) for file in sorted(path.iterdir())}, figures, compared_on)


def _convert_tokenizer(job: TokenizerJob, folder: Path) -> None:
    (folder / TOKENIZER_FILE).write_text(resolve(job.row.maker)(job.load()).to_str(pretty=True), encoding="utf-8")


def _keep_timings(previous: Path, folder: Path, backend: str) -> None:
    """TensorRT's kernel timings, for the next build to use."""
    if (timings := previous / TIMING_CACHE).is_file() and backend == "tensorrt":
        shutil.copyfile(timings, folder / TIMING_CACHE)
