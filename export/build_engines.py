"""Build engines from a Stable Diffusion model and a SafeRedir checkpoint; without arguments the demo's."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if __package__ in (None, ""):
    sys.path[0] = str(ROOT)

from engines.backends.registry import BACKENDS  # noqa: E402
from engines.backends.tensorrt_module import BUILDERS  # noqa: E402
from engines.errors import InputError, SafeRedirError  # noqa: E402
from engines.manifest import Policy  # noqa: E402
from export.build import build  # noqa: E402
from export.build_options import BuildOptions  # noqa: E402
from export.precision.choice import precision_name  # noqa: E402
from export.tensorrt.plan_builder import COMPATIBILITY, TARGETS, PlanOptions  # noqa: E402

DEMO_MODEL = ROOT / "demo" / "model"
DEMO_REDIRECTOR = ROOT / "demo" / "redirector.safetensors"
PLANS = ROOT / "engines" / "plans"
# Options that mean something to some backends only.
BACKENDS_OF = {
    **dict.fromkeys(("batch_size", "height", "width", "workspace", "optimization_level", "keep_onnx"), tuple(BUILDERS)),
    **dict.fromkeys(("hardware_compatibility", "version_compatible", "timing_cache"), ("tensorrt",)),
    "target_sm": ("tensorrt-rtx",),
}


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    default = Policy()
    result = argparse.ArgumentParser(prog="build_engines.py", description=__doc__, allow_abbrev=False)
    result.add_argument("--model", help="diffusers folder or hub id, Stable Diffusion 1.x/2.x family (default: the demo)")
    result.add_argument("--redirector", type=Path, help="SafeRedir checkpoint, .pt or .safetensors (default: the demo's)")
    result.add_argument("--unguarded", action="store_true", help="build without a guard; such engines only generate unguarded")
    result.add_argument("--engine-dir", type=Path, help="where the engines go (default: engines/plans/<model's name>)")
    result.add_argument("--concept", default="", help="what the guard forgets, for reports (default: the checkpoint's name)")
    result.add_argument("--backend", choices=list(BACKENDS), default="onnxruntime")
    result.add_argument("--precision", default="float32", help="float32, float16 or bfloat16, or fp32, fp16, bf16 (%(default)s)")
    result.add_argument("--mask-again", action="store_true", help="apply the token mask once more after normalising the shift")
    result.add_argument("--alpha-scale", type=float, default=default.alpha_scale, help="default policy (%(default)s)")
    result.add_argument("--threshold", type=float, default=default.threshold, help="default policy (%(default)s)")
    result.add_argument("--replace-steps", type=int, default=default.replace_steps, help="default policy (%(default)s)")
    plan = result.add_argument_group("TensorRT", "sizes are MIN:OPT:MAX, or one number for a size that never changes")
    plan.add_argument("--batch-size", help=f"images (default {BuildOptions.batch_size})")
    plan.add_argument("--height", help="pixels (default: the model's)")
    plan.add_argument("--width", help="pixels (default: the model's)")
    plan.add_argument("--workspace", type=float, help="GiB of scratch memory the builder may plan with")
    plan.add_argument("--optimization-level", type=int, choices=range(6), help="builder effort")
    plan.add_argument("--target-sm", nargs="+", choices=TARGETS, help="TensorRT-RTX: compute capabilities (default: portable)")
    plan.add_argument(
        "--hardware-compatibility", choices=COMPATIBILITY, help="TensorRT: other GPUs that the engines must run on (default: none)"
    )
    plan.add_argument(
        "--version-compatible", action="store_true", help="TensorRT: engines for other releases and for the lean runtime"
    )
    plan.add_argument("--timing-cache", type=Path, help="TensorRT: file of kernel timings (default: beside the engines)")
    plan.add_argument("--keep-onnx", action="store_true", help="keep model.onnx beside model.plan")
    result.add_argument("--force", action="store_true", help="build everything again, whatever is there")
    return result


def options(arguments: argparse.Namespace) -> BuildOptions:
    """Check and complete the arguments.

    Raises:
        InputError: they contradict each other, or no guard was named.
    """
    redirector, concept = arguments.redirector, arguments.concept
    if arguments.unguarded and redirector is not None:
        raise InputError("--unguarded and --redirector: expected one of them, found both")
    if not arguments.unguarded and redirector is None:
        if arguments.model is not None:
            raise InputError(
                "--redirector: expected a SafeRedir checkpoint for --model, found none; pass one, or --unguarded "
                "for engines that can only generate unguarded"
            )
        redirector, concept = DEMO_REDIRECTOR, concept or "fire"
    name = "demo" if arguments.model is None else arguments.model.rstrip("/").replace("\\", "/").split("/")[-1]
    _check_backend(arguments)
    return BuildOptions(
        batch_size=arguments.batch_size or BuildOptions.batch_size,
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
        model=arguments.model or str(DEMO_MODEL),
        redirector=redirector,
        concept=concept,
        engine_dir=arguments.engine_dir or PLANS / name,
        backend=arguments.backend,
        precision=precision_name(arguments.precision),
        mask_again=arguments.mask_again,
        force=arguments.force,
        policy=Policy(arguments.alpha_scale, arguments.threshold, arguments.replace_steps),
    )


def _check_backend(arguments: argparse.Namespace) -> None:
    """Raise InputError for an option that the chosen backend would ignore."""
    for name, backends in BACKENDS_OF.items():
        if getattr(arguments, name) and arguments.backend not in backends:
            raise InputError(f"--{name.replace('_', '-')}: for {' and '.join(backends)} only, found --backend {arguments.backend}")


def main(argv: list[str] | None = None) -> int:
    """Exit status 0, or 2 with one line on standard error."""
    arguments = parser().parse_args(argv)
    try:
        build(options(arguments))
    except SafeRedirError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("error: interrupted; the previous engines are as they were", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
