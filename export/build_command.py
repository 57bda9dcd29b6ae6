"""Build engines from a Stable Diffusion model and a SafeRedir checkpoint; in a clone of the repository, by default the demo's."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from engines.backends.registry import BACKENDS
from engines.backends.tensorrt_module import BUILDERS
from engines.errors import InputError
from engines.store.default_folder import engine_folder
from export.build import build
from export.build_request import PLAN_BATCH, BuildRequest
from export.edit_options import add_edit_arguments, given_edits
from export.guard_arguments import add_guard_arguments, checkpoints
from export.precision.names import precision_name
from export.quantization_options import add_int8_arguments, quantization_of
from export.tensorrt.plan_builder import COMPATIBILITY, TARGETS, PlanOptions

DEMO = Path(__file__).resolve().parent.parent / "demo"  # in a clone; a wheel does not have it
DEMO_MODEL = DEMO / "model"
DEMO_REDIRECTOR = DEMO / "fire.safetensors"
DEMO_CALIBRATION = DEMO / "calibration.json"
# Options that mean something to some backends only.
BACKENDS_OF = {
    **dict.fromkeys(("workspace", "optimization_level", "keep_onnx"), tuple(BUILDERS)),
    **dict.fromkeys(("hardware_compatibility", "version_compatible", "timing_cache"), ("tensorrt",)),
    "target_sm": ("tensorrt-rtx",),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument(
        "--model", help="diffusers folder, single file or hub id, Stable Diffusion 1.x/2.x family (default: the demo)"
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FOLDER",
        help="for a single file: diffusers folder whose configs and tokenizer/ are used, its weights are not (default: those of "
        "Stable Diffusion 1.x or 2.x, and the tokenizer beside the file or from the hub)",
    )
    parser.add_argument(
        "--vae",
        metavar="DIR|FILE",
        help="decode with this AutoencoderKL or AutoencoderTiny: a diffusers folder, a file of weights or a hub id (default: the "
        "model's)",
    )
    add_edit_arguments(parser)
    parser.add_argument(
        "--engine-dir",
        type=Path,
        help="where the engines go (default: engines/plans/<model's name>, under $SAFEREDIR_HOME or the working directory)",
    )
    parser.add_argument(
        "--backend",
        choices=list(BACKENDS),
        default=BuildRequest.backend,
        help="what runs the engines; saferedir doctor says which can here (default: %(default)s)",
    )
    parser.add_argument(
        "--precision",
        default=BuildRequest.precision,
        help="float32, float16, bfloat16 or int8, or fp32, fp16, bf16 (default: %(default)s)",
    )
    parser.add_argument("--force", action="store_true", help="build everything again, whatever is there")
    add_guard_arguments(parser)
    add_int8_arguments(parser.add_argument_group("--precision int8", "calibrates, and compares whole runs with float32's"))
    _add_size_arguments(
        parser.add_argument_group("sizes", "that the engines take: MIN:OPT:MAX, or one number for a size that never changes")
    )
    _add_plan_arguments(parser.add_argument_group("TensorRT"))


def _add_size_arguments(sizes: argparse._ArgumentGroup) -> None:
    sizes.add_argument("--batch-size", help=f"images (default: any; of TensorRT {PLAN_BATCH})")
    sizes.add_argument("--height", help="pixels (default: any; of TensorRT the model's)")
    sizes.add_argument("--width", help="pixels (default: any; of TensorRT the model's)")


def _add_plan_arguments(plan: argparse._ArgumentGroup) -> None:
    plan.add_argument("--workspace", type=float, help="GiB of scratch memory the builder may plan with (default: all)")
    plan.add_argument("--optimization-level", type=int, choices=range(6), help="builder effort (default: the library's)")
    plan.add_argument("--target-sm", nargs="+", choices=TARGETS, help="TensorRT-RTX: compute capabilities (default: portable)")
    plan.add_argument(
        "--hardware-compatibility", choices=COMPATIBILITY, help="TensorRT: other GPUs that the engines must run on (default: none)"
    )
    plan.add_argument(
        "--version-compatible", action="store_true", help="TensorRT: engines for other releases and for the lean runtime"
    )
    plan.add_argument("--timing-cache", type=Path, help="TensorRT: file of kernel timings (default: beside the engines)")
    plan.add_argument("--keep-onnx", action="store_true", help="keep model.onnx beside model.plan")


def options(arguments: argparse.Namespace) -> BuildRequest:
    """Check and complete the arguments.

    Raises:
        InputError: they contradict each other, no guard was named, or the demo is not here.
    """
    model, redirectors = _sources(arguments)
    _check_backend(arguments)
    guard, check = checkpoints(arguments, redirectors, arguments.concept or [])
    return BuildRequest(
        batch_size=arguments.batch_size,
        height=arguments.height,
        width=arguments.width,
        keep_onnx=arguments.keep_onnx,
        plan=PlanOptions(
            arguments.workspace,
            arguments.optimization_level,
            tuple(sorted(arguments.target_sm or (), key=int)),
            arguments.hardware_compatibility or "none",
            arguments.version_compatible,
            arguments.timing_cache,
        ),
        model=model,
        checkpoints=guard,
        config=arguments.config,
        edits=given_edits(arguments),
        engine_dir=arguments.engine_dir or engine_folder(_name(arguments.model)),
        backend=arguments.backend,
        precision=precision_name(arguments.precision),
        check=check,
        vae=arguments.vae,
        force=arguments.force,
        command_line=arguments.command_line,
        judge_scheduler=arguments.judge_scheduler,
        quantization=quantization_of(arguments, guard, DEMO_CALIBRATION if arguments.model is None else None),
    )


def _sources(arguments: argparse.Namespace) -> tuple[str, list[Path]]:
    """The model, and the checkpoints of its guard."""
    model, redirectors = arguments.model, arguments.redirector
    for name in ("redirector", "concept", "canaries"):
        if arguments.unguarded and getattr(arguments, name) is not None:
            raise InputError(f"--unguarded and --{name}: expected one of them, found both")
    if model is None and not DEMO_MODEL.is_dir():
        raise InputError(
            "--model: expected a diffusers folder or hub id, found none, and the demo's model comes with a clone of the repository "
            "only; pass --model and --redirector"
        )
    if model is not None and redirectors is None and not arguments.unguarded:
        raise InputError(
            "--redirector: expected a SafeRedir checkpoint for --model, found none; pass one, or --unguarded "
            "for engines that can only generate unguarded"
        )
    return model or str(DEMO_MODEL), [] if arguments.unguarded else redirectors or [DEMO_REDIRECTOR]


def _name(model: str | None) -> str:
    """Of the folder that the engines go to: the model folder's or file's, or the last part of a hub id."""
    if model is None:
        return DEMO.name
    if (file := Path(os.path.expanduser(model))).is_file():
        return file.stem
    return Path(model).resolve().name if Path(model).is_dir() else model.rstrip("/").split("/")[-1]


def _check_backend(arguments: argparse.Namespace) -> None:
    """Raise InputError for an option that the chosen backend would ignore."""
    for name, backends in BACKENDS_OF.items():
        if getattr(arguments, name) and arguments.backend not in backends:
            raise InputError(f"--{name.replace('_', '-')}: for {' and '.join(backends)} only, found --backend {arguments.backend}")


def run(arguments: argparse.Namespace) -> int:
    """Build; exit status 0."""
    build(options(arguments))
    return 0
