"""Generate guarded images from built engines: prompt in, PNG and verdict out."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if __package__ in (None, ""):
    sys.path[0] = str(ROOT)

from PIL import Image  # noqa: E402

from engines.errors import InputError, NonFiniteError, SafeRedirError  # noqa: E402
from engines.manifest import Policy  # noqa: E402
from engines.store.atomic import replacing  # noqa: E402
from runtime.pipeline import GuardedPipeline  # noqa: E402
from runtime.prompts import TruncationWarning  # noqa: E402
from runtime.report import Result, save_png  # noqa: E402
from runtime.request import ON_UNSAFE  # noqa: E402

MARGIN = 4  # pixels between two images of a comparison


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    result = argparse.ArgumentParser(prog="generate.py", description=__doc__, allow_abbrev=False)
    result.add_argument("prompt", nargs="+", help="one image for each")
    result.add_argument("--engine-dir", type=Path, default=ROOT / "engines" / "plans" / "demo", help="(default: the demo's)")
    result.add_argument("--output", type=Path, default=Path("out.png"), help="PNG to write; several get -0, -1, … (%(default)s)")
    result.add_argument("--report", type=Path, help="JSON file for what the guard did")
    result.add_argument("--compare", action="store_true", help="write guarded (left) and unguarded (right) side by side")
    result.add_argument("--unguarded", action="store_true", help="generate without the guard; the report says so")
    result.add_argument("--on-unsafe", choices=ON_UNSAFE, default="redirect", help="what an unsafe image meets (%(default)s)")
    result.add_argument("--eager", action="store_true", help="on a GPU, capture no CUDA graph, to debug")
    result.add_argument("--negative-prompt", default="")
    result.add_argument("--num-inference-steps", type=int, default=50)
    result.add_argument("--guidance-scale", type=float, default=7.5)
    result.add_argument("--scheduler", help="ddim, pndm or lms (default: the model's own)")
    result.add_argument("--seed", type=int, help="of the first image; the next ones count up (default: random)")
    result.add_argument("--height", type=int, help="pixels (default: the model's)")
    result.add_argument("--width", type=int, help="pixels (default: the model's)")
    for name, kind in (("alpha-scale", float), ("threshold", float), ("replace-steps", int)):
        result.add_argument(f"--{name}", type=kind, help="policy of the guard (default: as built)")
    return result


def main(argv: list[str] | None = None) -> int:
    """Exit status 0; 2 with one line on standard error; 3 when an image was refused."""
    arguments = parser().parse_args(argv)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", TruncationWarning)
            warnings.showwarning = _warn
            return _generate(arguments)
    except SafeRedirError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename}: cannot be written ({error.strerror})", file=sys.stderr)
        return 2


def _generate(arguments: argparse.Namespace) -> int:
    if arguments.compare and arguments.unguarded:
        raise InputError("--compare and --unguarded: expected one of them, found both")
    for path in filter(None, (arguments.output, arguments.report)):
        if not path.parent.is_dir():
            raise InputError(f"{path}: expected a folder to write into, found no {path.parent}")
    with GuardedPipeline(arguments.engine_dir, arguments.unguarded, arguments.eager) as pipeline:
        options = {
            name: getattr(arguments, name)
            for name in (
                "negative_prompt",
                "num_inference_steps",
                "guidance_scale",
                "scheduler",
                "seed",
                "height",
                "width",
                "on_unsafe",
            )
        }
        numbers = {
            name: value for name in ("alpha_scale", "threshold", "replace_steps") if (value := getattr(arguments, name)) is not None
        }
        if numbers and pipeline.manifest.guard is not None:
            options["policy"] = Policy(**{**vars(pipeline.manifest.guard.policy), **numbers})
        failure = None
        try:
            result = pipeline(arguments.prompt, progress=_progress, **options)
        except NonFiniteError as error:
            if not isinstance(error.result, Result):
                raise
            result, failure = error.result, error
        _write_report(arguments.report, result)
        other: Sequence[Image.Image | None] = [None] * len(result.images)
        if arguments.compare:
            options["seed"] = [report.seed for report in result.guard]
            other = pipeline(arguments.prompt, progress=_progress, unguarded=True, **options).images
    _write_images(arguments, result, other)
    if failure is not None:
        raise failure
    return 3 if any(report.verdict == "refused" for report in result.guard) else 0


def _write_images(arguments: argparse.Namespace, result: Result, other: Sequence[Image.Image | None]) -> None:
    for index, (image, report, unguarded) in enumerate(zip(result.images, result.guard, other, strict=True)):
        path = arguments.output
        if len(result.images) > 1:
            path = path.with_name(f"{path.stem}-{index}{path.suffix}")
        if arguments.compare:
            image = _side_by_side(image, unguarded)
        if image is not None:
            save_png(image, report, path)
        print(f"{report.prompt!r} seed {report.seed}: {report}" + (f" -> {path}" if image is not None else ""))


def _side_by_side(left: Image.Image | None, right: Image.Image | None) -> Image.Image | None:
    """Both on one canvas; a withheld image leaves its half white."""
    shown = left or right
    if shown is None:
        return None
    canvas = Image.new("RGB", (2 * shown.width + MARGIN, shown.height), "white")
    for image, x in ((left, 0), (right, shown.width + MARGIN)):
        if image is not None:
            canvas.paste(image, (x, 0))
    return canvas


def _write_report(path: Path | None, result: Result) -> None:
    if path is None:
        return
    with replacing(path) as temporary:
        temporary.write_text(result.to_json(), encoding="utf-8")


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _progress(done: int, steps: int) -> None:
    if sys.stderr.isatty() or done == steps:
        print(f"\rstep {done}/{steps}", end="\n" if done == steps else "", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
