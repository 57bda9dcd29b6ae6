"""Builds one network: exported, compared with PyTorch, made into a plan where TensorRT is to run it, compared again."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from engines.backends.contract import Backend, Engine
from engines.backends.registry import ONNX_FILE, open_backend
from engines.backends.tensorrt_module import BUILDERS, import_tensorrt
from engines.errors import BackendError, ParityError
from engines.parity import Figures, in_words
from engines.store.recorded_cases import FILE_NAME as RECORDED
from engines.store.recorded_cases import Case, check_cases, save_cases
from export.exported_networks import resolve
from export.jobs import NetworkJob, PlanSettings
from export.quantization import Sample
from export.tensorrt.plan_builder import PlanJob, PlanOptions, build_plan

TIMING_CACHE = "timing.cache"


@dataclass(frozen=True)
class Parity:
    """Figures of a network, and the device of its engine; None if they are of its ONNX file."""

    figures: Figures
    device: str | None

    def __str__(self) -> str:
        return f"parity{'' if self.device else ' of the ONNX file'}: {in_words(self.figures)}"


def build_network(job: NetworkJob, folder: Path, samples: Sequence[Sample] = ()) -> Parity:
    """Write a network's engine and its recorded cases to `folder/<network>`. An int8 network is calibrated by `samples`.

    Raises:
        ParityError: the ONNX file or the engine does not compute what PyTorch computes.
        PlanError: TensorRT cannot build it.
    """
    from export.precision.int8 import quantize

    path = folder / job.name / ONNX_FILE
    cases = _export(job, path)
    if job.precision == "int8":
        quantize(path, samples, job.row.kept or (), job.around, job.backend.half_range)
    of_file, device = _compare(job, path, cases)
    engine = path.with_name(job.backend.engine_file)
    if job.plan is not None:
        _compile(job, job.plan, path, engine, folder)
    if job.backend.name == "onnxruntime":
        return Parity(of_file, device)
    return _on_device(job, engine, cases) or Parity(of_file, None)


def _export(job: NetworkJob, path: Path) -> list[Case]:
    """Write the ONNX file, of an int8 network in float32, and record cases. The weights in memory are freed afterwards."""
    from export.attention import fused_attention
    from export.onnx_file import export_network
    from export.rearranged import rearranged
    from export.reference_cases import reference_cases

    module, row = job.module(), job.row
    exported = module if row.for_inference is None else row.for_inference(module, job.backend)  # its cases are the module's own
    sizes = {"D": job.geometry.embed_dim, "G": job.geometry.time_cond_proj_dim, "K": job.concepts}
    forms = resolve(row.forms)(job.precision) if job.backend.rearranged and row.forms else ()
    with rearranged(exported, *forms), fused_attention() if job.backend.fused_attention and row.fused_attention else nullcontext():
        export_network(exported, row.spec, sizes, path, "float32" if job.precision == "int8" else job.precision, job.backend.lowers)
    cases = reference_cases(module, row, job.geometry, job.concepts, job.plan.profile if job.plan else None)
    save_cases(path.with_name(RECORDED), cases)
    return cases


def _compare(job: NetworkJob, path: Path, cases: Sequence[Case]) -> tuple[Figures, str]:
    """Parity figures of the ONNX file by ONNX Runtime, and what that runs on."""
    from export.precision.emulation import emulated

    cpu = open_backend("onnxruntime")
    with emulated(path, job.around) as runnable:
        return _checked(job, cpu.load(runnable, job.row.spec), cpu, cases), cpu.device


def _compile(job: NetworkJob, plan: PlanSettings, path: Path, engine: Path, folder: Path) -> None:
    plan_job = PlanJob(path, job.row.spec, plan.profile, job.geometry, engine, job.concepts)
    build_plan(import_tensorrt(job.backend.name, BUILDERS), plan_job, _options(job, plan, folder), _show_phase)
    _show_phase("")
    if not plan.keep_onnx:
        for file in (path, path.with_name(path.name + ".data")):
            file.unlink(missing_ok=True)


def _on_device(job: NetworkJob, engine: Path, cases: Sequence[Case]) -> Parity | None:
    """Parity of an engine on this machine's device; None where it cannot run here: then its first load compares it."""
    try:
        backend = open_backend(job.backend.name, job.backend_precision)
        loaded = backend.load(engine, job.row.spec)
    except BackendError:
        return None
    return Parity(_checked(job, loaded, backend, cases), backend.device)


def _checked(job: NetworkJob, engine: Engine, backend: Backend, cases: Sequence[Case]) -> Figures:
    """Parity figures of a network. Raises ParityError with what may fix it."""
    try:
        return check_cases(engine, backend, cases, job.precision)
    except ParityError as error:
        if job.precision == "float32":
            raise
        raise ParityError(f"{error}; build with --precision float32") from None


def _options(job: NetworkJob, plan: PlanSettings, folder: Path) -> PlanOptions:
    """TensorRT's builder times kernels: its timings are kept beside the engines. TensorRT-RTX times none."""
    if job.backend.name != "tensorrt" or plan.options.timing_cache is not None:
        return plan.options
    return dataclasses.replace(plan.options, timing_cache=folder / TIMING_CACHE)


def _show_phase(phase: str) -> None:
    """What the builder is doing, on one line of a terminal that the next replaces."""
    if sys.stderr.isatty():
        print(f"\r\033[K{phase}", end="", file=sys.stderr, flush=True)
