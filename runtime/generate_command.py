"""Generate guarded images from built engines: prompt in, PNG and verdict out."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from engines.errors import InputError, NonFiniteError, SafeRedirError
from engines.exit_status import DONE, REFUSED
from engines.policy import CHECKS
from engines.policy_options import add_policy_arguments, given_policies
from engines.printable import printable
from engines.prompts import TruncationWarning
from engines.store import default_folder
from engines.store.atomic import remove_leftovers, replacing
from engines.store.signature import add_trusted_key_argument
from runtime.credentials import Credentials
from runtime.pipeline import GuardedPipeline
from runtime.png import image_digest, save_png
from runtime.report import ComparisonReport, ImageReport, Result
from runtime.request import Request
from runtime.request_values import ON_STILL_UNSAFE, ON_UNSAFE
from runtime.samplers.names import SCHEDULE_TYPES

Pictured = tuple[Image.Image, ImageReport | ComparisonReport]  # a picture, and the report that goes into its file
MARGIN = 4  # pixels between two images of a comparison
# Options that are fields of a Request under the same name.
REQUEST = (
    "negative_prompt",
    "num_images_per_prompt",
    "clip_skip",
    "num_inference_steps",
    "guidance_scale",
    "scheduler",
    "schedule_type",
    "eta",
    "seed",
    "height",
    "width",
    "on_unsafe",
    "on_still_unsafe",
    "check",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("prompt", nargs="+", help="what to draw; several texts are drawn as one batch")
    parser.add_argument("--engine-dir", type=Path, help=default_folder.HELP)
    parser.add_argument(
        "--output", type=Path, default=Path("out.png"), help="PNG to write; several get -0, -1, … (default: %(default)s)"
    )
    parser.add_argument("--report", type=Path, help="JSON file for what the guard did (default: none)")
    parser.add_argument(
        "--credentials",
        metavar="KEY,CERT",
        help="PEM files: sign each PNG with content credentials (C2PA) by this private key and its certificates (default: none)",
    )
    parser.add_argument(
        "--compare", action="store_true", help="write guarded (left) and unguarded (right) side by side, as …-comparison.png"
    )
    parser.add_argument("--unguarded", action="store_true", help="generate without the guard; the report says so")
    parser.add_argument(
        "--on-unsafe",
        choices=ON_UNSAFE,
        default=Request.on_unsafe,
        help="what to do with an unsafe image: redirect it, withhold it, or only report it (default: %(default)s)",
    )
    parser.add_argument(
        "--on-still-unsafe",
        choices=ON_STILL_UNSAFE,
        default=Request.on_still_unsafe,
        help="what a redirected image meets that the final check still finds unsafe (default: %(default)s)",
    )
    parser.add_argument(
        "--check",
        choices=CHECKS,
        help="the guard looks before the UNet of a step and redirects it, or beside it and redirects the next ones; "
        "auto: before for few steps (default: as built)",
    )
    add_trusted_key_argument(parser)
    parser.add_argument("--eager", action="store_true", help="on a GPU, capture no CUDA graph, to debug")
    parser.add_argument("--negative-prompt", default=Request.negative_prompt, help="what not to draw (default: nothing)")
    parser.add_argument(
        "--num-images-per-prompt",
        type=int,
        default=Request.num_images_per_prompt,
        help="images of each prompt (default: %(default)s)",
    )
    parser.add_argument(
        "--clip-skip",
        type=int,
        default=Request.clip_skip,
        help="read the prompt without the text encoder's last layers, this many, as in diffusers; "
        "one fewer than A1111's Clip skip (default: %(default)s)",
    )
    parser.add_argument(
        "--num-inference-steps", type=int, default=Request.num_inference_steps, help="sampler steps (default: %(default)s)"
    )
    parser.add_argument(
        "--guidance-scale",
        type=float,
        default=Request.guidance_scale,
        help="classifier-free guidance; 1 or less means none (default: %(default)s)",
    )
    parser.add_argument(
        "--scheduler", help="sampler: any name that saferedir samplers lists, as 'DPM++ 2M Karras' (default: the model's own)"
    )
    parser.add_argument(
        "--schedule-type", help=f"how noise levels are spaced: {', '.join(SCHEDULE_TYPES)} (default: as name and model say)"
    )
    parser.add_argument(
        "--eta", type=float, default=Request.eta, help="share of fresh noise of samplers that have one (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, help="of the first image; the next ones count up (default: random)")
    parser.add_argument("--height", type=int, help="pixels (default: the model's)")
    parser.add_argument("--width", type=int, help="pixels (default: the model's)")
    add_policy_arguments(parser, default="as built", may_be_off=True)


def run(arguments: argparse.Namespace) -> int:
    """Generate, and write pictures and report; exit status 0, or 3 when an image was refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", TruncationWarning)
        warnings.showwarning = _warn
        return _generate(arguments)


def _generate(arguments: argparse.Namespace) -> int:
    if arguments.compare and arguments.unguarded:
        raise InputError("--compare and --unguarded: expected one of them, found both")
    credentials = _credentials(arguments)
    images = Request(arguments.prompt, num_images_per_prompt=arguments.num_images_per_prompt).prompts
    paths = _picture_paths(arguments.output, len(images), arguments.compare)
    _check_paths(paths, arguments.report)
    folder = arguments.engine_dir or default_folder.built_folder()
    with GuardedPipeline(
        folder, unguarded=arguments.unguarded, trusted_keys=arguments.trusted_key, eager=arguments.eager
    ) as pipeline:
        options = {name: getattr(arguments, name) for name in REQUEST}
        if policies := given_policies(arguments, {guard.concept: guard.policy for guard in pipeline.manifest.guards}):
            options["policy"] = policies
        result, failure = _call(pipeline, arguments.prompt, options)
        comparisons: dict[int, Pictured] = {}
        if arguments.compare:
            comparisons, other_failure = _comparisons(pipeline, result, options)
            failure = failure or other_failure
    pictures: list[Pictured | None] = [
        comparisons.get(index) if arguments.compare else None if image is None else (image, report)
        for index, (image, report) in enumerate(zip(result.images, result.reports, strict=True))
    ]
    _write(result, pictures, paths, arguments.report, credentials)
    if failure is not None:
        raise failure
    return REFUSED if any(image is None for image in result.images) else DONE


def _call(pipeline: GuardedPipeline, prompts: list[str], options: dict[str, Any]) -> tuple[Result, NonFiniteError | None]:
    """The result, with the error that came with it where some images failed."""
    try:
        return pipeline(prompts, progress=_progress, **options), None
    except NonFiniteError as error:
        if not isinstance(error.result, Result):
            raise
        return error.result, error


def _credentials(arguments: argparse.Namespace) -> Credentials | None:
    """What --credentials names, read and tried before anything is generated."""
    if arguments.credentials is None:
        return None
    if arguments.compare:
        raise InputError("--compare and --credentials: expected one of them, found both; a comparison is not signed")
    files = arguments.credentials.split(",")
    if len(files) != 2 or not all(files):
        raise InputError(f"--credentials: expected KEY,CERT (two files), found {arguments.credentials!r}")
    return Credentials.read(*files)


def _comparisons(
    pipeline: GuardedPipeline, result: Result, options: dict[str, Any]
) -> tuple[dict[int, Pictured], NonFiniteError | None]:
    """Side by side, by image, with what failed without the guard. An image that is withheld is shown in no comparison, either."""
    shown = [index for index, image in enumerate(result.images) if image is not None]
    if not shown:
        return {}, None
    prompts, seeds = ([getattr(result.reports[index], name) for index in shown] for name in ("prompt", "seed"))
    other, failure = _call(pipeline, prompts, {**options, "num_images_per_prompt": 1, "seed": seeds, "unguarded": True})
    pairs = zip(shown, other.images, other.reports, strict=True)
    return {
        index: _side_by_side(guarded, result.reports[index], image, report)
        for index, image, report in pairs
        if image is not None and (guarded := result.images[index]) is not None
    }, failure


def _picture_paths(output: Path, count: int, comparison: bool) -> list[Path]:
    """Where each picture goes: several get numbers, unless they go to a device."""
    if output.exists() and not output.is_file():
        return [output] * count
    numbers = [f"-{index}" for index in range(count)] if count > 1 else [""]
    end = ("-comparison" if comparison else "") + output.suffix
    return [output.with_name(f"{output.stem}{number}{end}") for number in numbers]


def _check_paths(pictures: Sequence[Path], report: Path | None) -> None:
    """Raise InputError, before anything is generated, where pictures or report cannot be written."""
    for path in (*pictures, *([report] if report else [])):
        if not path.parent.is_dir():
            raise InputError(f"{path}: expected a folder to write into, found no {path.parent}")
        if path.is_dir():
            raise InputError(f"{path}: expected a file to write, found a folder")
        if not path.exists() and not os.access(path.parent, os.W_OK):
            raise InputError(f"{path}: expected a folder to write into, found that {path.parent} cannot be written to")
        remove_leftovers(path)
    if report is not None and report in pictures and (report.is_file() or not report.exists()):
        raise InputError(f"{report}: expected a file of its own for the report, found a picture's")


def _write(
    result: Result,
    pictures: Sequence[Pictured | None],
    paths: Sequence[Path],
    report_path: Path | None,
    credentials: Credentials | None,
) -> None:
    """Write every picture and the report, whatever happens to one of them, then say what the guard did.

    Where there is no picture, none is left from an earlier run.
    """
    failures: list[Exception] = []
    lines = []
    for path, report, pictured in zip(paths, result.reports, pictures, strict=True):
        line = f"{report.prompt!r} seed {report.seed}: {report}"
        try:
            if pictured is not None:
                save_png(*pictured, path, credentials)
                line += f" -> {path}"
            elif path.is_file():
                Path(os.path.realpath(path)).unlink()
                line += f"; the earlier {path} is removed"
        except (OSError, SafeRedirError) as error:
            failures.append(error)
        lines.append(line)
    try:
        _write_report(report_path, result)
    except OSError as error:
        failures.append(error)
    for line in lines:
        print(printable(line))
    if failures:
        raise failures[0]


def _side_by_side(left: Image.Image, guarded: ImageReport, right: Image.Image, unguarded: ImageReport) -> Pictured:
    """Both on one canvas."""
    canvas = Image.new("RGB", (2 * left.width + MARGIN, left.height), "white")
    canvas.paste(left, (0, 0))
    canvas.paste(right, (left.width + MARGIN, 0))
    digest = image_digest(np.asarray(canvas))
    return canvas, ComparisonReport(guarded, unguarded, height=canvas.height, width=canvas.width, image_sha256=digest)


def _write_report(path: Path | None, result: Result) -> None:
    if path is None:
        return
    with replacing(path) as temporary:
        temporary.write_text(result.to_json(), encoding="utf-8")


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    with suppress(OSError, ValueError):  # a closed or full standard error costs no picture
        print(printable(f"warning: {message}"), file=sys.stderr)


def _progress(done: int, steps: int) -> None:
    with suppress(OSError, ValueError):
        if sys.stderr.isatty() or done == steps:
            print(f"\rstep {done}/{steps}", end="\n" if done == steps else "", file=sys.stderr, flush=True)
