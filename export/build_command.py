"""Build engines from a Stable Diffusion model and a SafeRedir checkpoint; in a clone of the repository, by default the demo's."""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path

from engines.backends.registry import BACKENDS
from engines.backends.tensorrt_module import BUILDERS
from engines.errors import InputError
from engines.policy import CHECKS
from engines.policy_options import add_policy_arguments, given_policy
from engines.store.default_folder import engine_folder
from export.build import build
from export.build_request import BuildRequest, Checkpoint
from export.canaries import read_canaries
from export.precision.names import precision_name
from export.quantization_options import add_int8_arguments, quantization_of
from export.sources.edits import Edit, Lora, Replacement
from export.tensorrt.plan_builder import COMPATIBILITY, TARGETS, PlanOptions
from saferedir.metadata import Metadata, read_metadata

DEMO = Path(__file__).resolve().parent.parent / "demo"  # in a clone; a wheel does not have it
DEMO_MODEL = DEMO / "model"
DEMO_REDIRECTOR = DEMO / "redirector.safetensors"
DEMO_CONCEPT = "fire"
DEMO_CALIBRATION = DEMO / "calibration.txt"
REPLACEABLE = ("unet", "text_encoder")  # components whose weights other files may replace
# Options that mean something to some backends only.
BACKENDS_OF = {
    **dict.fromkeys(("batch_size", "height", "width", "workspace", "optimization_level", "keep_onnx"), tuple(BUILDERS)),
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
        type=Path,
        metavar="DIR|FILE",
        help="decode with this AutoencoderKL or AutoencoderTiny: a diffusers folder, or a .safetensors file (default: the model's)",
    )
    parser.add_argument("--redirector", type=Path, help="SafeRedir checkpoint, .pt or .safetensors (default: the demo's)")
    _add_edit_arguments(parser)
    parser.add_argument("--unguarded", action="store_true", help="build without a guard; such engines only generate unguarded")
    parser.add_argument(
        "--engine-dir",
        type=Path,
        help="where the engines go (default: engines/plans/<model's name>, under $SAFEREDIR_HOME or the working directory)",
    )
    parser.add_argument("--concept", default="", help="what the guard forgets, for reports (default: the checkpoint's name)")
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
    parser.add_argument("--mask-again", action="store_true", help="apply the token mask once more after normalising the shift")
    parser.add_argument(
        "--check",
        choices=CHECKS,
        help="when the guard looks: before or beside the UNet of a step; auto: before for few steps "
        f"(default: the checkpoint's, else {BuildRequest.check})",
    )
    parser.add_argument(
        "--canaries",
        type=Path,
        metavar="FILE",
        help="JSON with prompts that the guard must judge rightly, see docs/guarding.md (default: the checkpoint's)",
    )
    parser.add_argument("--force", action="store_true", help="build everything again, whatever is there")
    add_policy_arguments(parser, default="the checkpoint's, else {}")
    add_int8_arguments(parser.add_argument_group("--precision int8", "calibrates, and compares whole runs with float32's"))
    _add_plan_arguments(parser.add_argument_group("TensorRT", "sizes are MIN:OPT:MAX, or one number for a size that never changes"))


def _add_edit_arguments(parser: argparse.ArgumentParser) -> None:
    for component in REPLACEABLE:
        parser.add_argument(
            f"--{component.replace('_', '-')}-weights",
            type=Path,
            metavar="FILE",
            help=f"weights in place of the {component.replace('_', ' ')}'s, all or some: an unlearned model's, say",
        )
    parser.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="FILE[:SCALE]",
        help="merge a LoRA into the model: kohya, diffusers or PEFT layout; may be given several times (default scale: 1)",
    )


def _add_plan_arguments(plan: argparse._ArgumentGroup) -> None:
    plan.add_argument("--batch-size", help=f"images (default: {BuildRequest.batch_size})")
    plan.add_argument("--height", help="pixels (default: the model's)")
    plan.add_argument("--width", help="pixels (default: the model's)")
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
    model, redirector = _sources(arguments)
    _check_backend(arguments)
    metadata = Metadata() if redirector is None else read_metadata(redirector)
    checkpoints = () if redirector is None else (_checkpoint(arguments, redirector, metadata),)
    return BuildRequest(
        batch_size=arguments.batch_size or BuildRequest.batch_size,
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
        checkpoints=checkpoints,
        config=arguments.config,
        edits=_edits(arguments),
        engine_dir=arguments.engine_dir or engine_folder(_name(arguments.model)),
        backend=arguments.backend,
        precision=precision_name(arguments.precision),
        check=arguments.check or metadata.check,
        vae=arguments.vae,
        force=arguments.force,
        command_line=arguments.command_line,
        judge_scheduler=arguments.judge_scheduler,
        quantization=quantization_of(arguments, checkpoints, DEMO_CALIBRATION if arguments.model is None else None),
    )


def _sources(arguments: argparse.Namespace) -> tuple[str, Path | None]:
    """The model, and the checkpoint of its guard."""
    model, redirector = arguments.model, arguments.redirector
    for name in ("redirector", "canaries"):
        if arguments.unguarded and getattr(arguments, name) is not None:
            raise InputError(f"--unguarded and --{name}: expected one of them, found both")
    if model is None and not DEMO_MODEL.is_dir():
        raise InputError(
            "--model: expected a diffusers folder or hub id, found none, and the demo's model comes with a clone of the repository "
            "only; pass --model and --redirector"
        )
    if model is not None and redirector is None and not arguments.unguarded:
        raise InputError(
            "--redirector: expected a SafeRedir checkpoint for --model, found none; pass one, or --unguarded "
            "for engines that can only generate unguarded"
        )
    return model or str(DEMO_MODEL), None if arguments.unguarded else redirector or DEMO_REDIRECTOR


def _checkpoint(arguments: argparse.Namespace, path: Path, metadata: Metadata) -> Checkpoint:
    """The checkpoint with what its metadata says, where the command line does not say otherwise."""
    concept = arguments.concept or (DEMO_CONCEPT if arguments.redirector is None else path.stem)
    given = {} if arguments.canaries is None else read_canaries(arguments.canaries, [concept])
    return Checkpoint(
        path,
        concept,
        arguments.mask_again,
        policy=dataclasses.replace(metadata.policy, **given_policy(arguments)),
        final_check=metadata.final_check,
        canaries=given.get(concept, tuple(metadata.canaries)),
    )


def _edits(arguments: argparse.Namespace) -> tuple[Edit, ...]:
    """What is laid over the model's weights."""
    given = {component: getattr(arguments, f"{component}_weights") for component in REPLACEABLE}
    replaced = [Replacement(file, component) for component, file in given.items() if file is not None]
    return (*replaced, *(Lora.parse(text) for text in arguments.lora))


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
