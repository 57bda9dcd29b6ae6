"""Builds one network: exported, held to PyTorch, made into a plan where TensorRT is to run it, held to PyTorch again."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.backends.registry import open_backend
from engines.backends.tensorrt_module import BUILDERS, import_tensorrt
from engines.errors import BackendError, InputError
from engines.networks import GUARD_NETWORKS, NETWORKS
from engines.parity import Figures, in_words
from engines.store.engine_store import MODEL_FILES
from engines.store.recorded_cases import FILE_NAME as RECORDED
from engines.store.recorded_cases import Case, check_cases, save_cases
from export.build_options import BuildOptions
from export.sources.model_folder import Source
from export.tensorrt.plan_builder import PlanJob, PlanOptions, build_plan

# The component of the model that each network is made from.
COMPONENT_OF = {"text_encoder": "text_encoder", "unet": "unet", "vae_decoder": "vae", "tokenizer": "tokenizer"}
TIMING_CACHE = "timing.cache"
# Backends whose guard takes `saferedir.inference.winograd`; the kernels of GPUs have such forms of their own.
WINOGRAD = frozenset({"onnxruntime", "openvino"})
# Networks whose attention is one operator where ONNX Runtime runs them on a CPU: 0.88 of the time and 2 GB less for the UNet of
# Stable Diffusion 1.5's size at 512x512. The others have few tokens, or one such layer.
FUSED_ATTENTION = frozenset({"unet"})


@dataclass(frozen=True)
class Parity:
    """Figures of a network, and whether they are the engine's own or its ONNX file's."""

    figures: Figures
    of_engine: bool

    def __str__(self) -> str:
        return f"parity{'' if self.of_engine else ' of the ONNX file'}: {in_words(self.figures)}"


def build_network(network: str, folder: Path, source: Source, options: BuildOptions, precision: str) -> Parity:
    """Write a network's engine and its recorded cases to `folder/<network>`. `precision` is what it computes in.

    Raises:
        ParityError: the ONNX file or the engine does not compute what PyTorch computes.
        PlanError: TensorRT cannot build it.
    """
    spec, path = NETWORKS[network], folder / network / MODEL_FILES[0]
    cases, figures = _export(network, path, source, options, precision)
    engine = path
    if (profile := options.profile(source.geometry)) is not None:
        engine = folder / network / MODEL_FILES[1]
        job = PlanJob(path, spec, profile, source.geometry, engine)
        build_plan(import_tensorrt(options.backend, BUILDERS), job, _plan_options(options, folder), _show_phase)
        _show_phase("")
        if not options.keep_onnx:
            for file in (path, path.with_name(path.name + ".data")):
                file.unlink(missing_ok=True)
    own = figures if options.backend == "onnxruntime" else _on_device(options, engine, network, cases, precision)
    return Parity(figures, of_engine=False) if own is None else Parity(own, of_engine=True)


def _export(network: str, path: Path, source: Source, options: BuildOptions, precision: str) -> tuple[list[Case], Figures]:
    """Write the ONNX file, record cases and hold the file to them. The weights in memory are gone afterwards."""
    from export.attention import fused_attention
    from export.onnx_file import export_network
    from export.precision.emulation import emulate
    from export.reference_cases import reference_cases

    module, spec = _module(network, source, options), NETWORKS[network]
    exported = module.for_inference(options.backend in WINOGRAD) if network == "guard" else module  # held to the trained module
    in_file = precision if options.half_files else "float32"
    with fused_attention() if options.backend == "onnxruntime" and network in FUSED_ATTENTION else nullcontext():
        export_network(exported, spec, source.geometry.embed_dim, path, in_file)
    cases = reference_cases(module, spec, source.geometry, options.profile(source.geometry))
    save_cases(path.with_name(RECORDED), cases)
    cpu = open_backend("onnxruntime")
    if in_file == "float32":
        return cases, check_cases(cpu.load(path, spec), cpu, cases, in_file)
    twin = emulate(path, in_file)
    try:
        return cases, check_cases(cpu.load(twin, spec), cpu, cases, in_file)
    finally:
        twin.unlink()


def _on_device(options: BuildOptions, engine: Path, network: str, cases: Sequence[Case], precision: str) -> Figures | None:
    """Figures of an engine on this machine's device; None where there is none that runs it, and its first load will gate it."""
    try:
        backend = open_backend(options.backend, options.precision)
        loaded = backend.load(engine, NETWORKS[network])
    except BackendError:
        return None
    return check_cases(loaded, backend, cases, precision)


def _plan_options(options: BuildOptions, folder: Path) -> PlanOptions:
    """TensorRT's builder times kernels: its timings are kept beside the engines. TensorRT-RTX times none."""
    if options.backend != "tensorrt" or options.plan.timing_cache is not None:
        return options.plan
    return dataclasses.replace(options.plan, timing_cache=folder / TIMING_CACHE)


def _show_phase(phase: str) -> None:
    """What the builder is doing, on one line of a terminal that the next replaces."""
    if sys.stderr.isatty():
        print(f"\r\033[K{phase}", end="", file=sys.stderr, flush=True)


def _module(network: str, source: Source, options: BuildOptions) -> Any:
    from export import wrappers as networks
    from saferedir.guard import Guard

    if network == "sampler_step":
        return networks.SamplerStep()
    if network in GUARD_NETWORKS:
        redirector = _redirector(source, options)
        return Guard(redirector, options.mask_again) if network == "guard" else redirector.mask_predictor
    wrapper = {"text_encoder": networks.TextEncoder, "unet": networks.Unet, "vae_decoder": networks.VaeDecoder}[network]
    return wrapper(source.load(COMPONENT_OF[network])).eval()


def _redirector(source: Source, options: BuildOptions) -> Any:
    from saferedir.checkpoint import CheckpointError, load_redirector

    assert options.redirector is not None
    try:
        redirector = load_redirector(options.redirector)
    except CheckpointError as error:
        raise InputError(str(error)) from None
    if (found := redirector.config.embed_dim) != source.geometry.embed_dim:
        raise InputError(
            f"{options.redirector}: expected a checkpoint for prompt width {source.geometry.embed_dim} "
            f"(text_encoder of {source.name}), found {found}"
        )
    return redirector
