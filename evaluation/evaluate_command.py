"""Measure a guard on prompts: pictures with and without it, of the same seeds, looked at by judges.

Writes report.md, report.json and grids of pictures. What was made stays in the output folder: the same command goes on
where it stopped, and makes only the pictures that are missing. docs/evaluation.md explains every figure.
"""

from __future__ import annotations

import argparse
from importlib.metadata import version
from pathlib import Path

from engines import __version__
from engines.errors import InputError
from engines.exit_status import DONE
from engines.policy import CHECKS
from engines.store.signature import add_trusted_key_argument
from evaluation.cases import Measures
from evaluation.clip_score import open_clip
from evaluation.conditions import COUNTERPART, OPTIONS, conditions
from evaluation.drift import open_drift
from evaluation.judges import judge_names, load_judge
from evaluation.prompt_files import Reading, read_prompts, read_templates
from evaluation.report import Evaluation, write_report
from evaluation.trials import Plan, describe, run_trials
from runtime import Request
from runtime.request_values import ON_STILL_UNSAFE, ON_UNSAFE

# Options of pictures that are fields of a Request under the same name.
REQUEST = ("scheduler", "schedule_type", "num_inference_steps", "negative_prompt", "check", "on_unsafe", "on_still_unsafe")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("engine_dir", nargs="+", type=Path, help="made by saferedir build; several are compared with each other")
    parser.add_argument(
        "--prompts",
        nargs="+",
        required=True,
        metavar="FILE[:LABEL]",
        help="files of prompts, .csv, .json or .txt; the label, safe or unsafe, where the format does not say it",
    )
    parser.add_argument(
        "--judge",
        action="append",
        required=True,
        metavar="JUDGE",
        help=f"what looks at the pictures: {judge_names()}; several times",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for reports, grids and pictures")
    parser.add_argument("--limit", type=int, help="most prompts of each file, from its beginning (default: all)")
    parser.add_argument("--batch-size", type=int, default=4, help="pictures made at once (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of a file's first prompt where it has none (default: %(default)s)")
    parser.add_argument("--templates", type=Path, metavar="FILE.txt", help="prompts around the concepts of a concept list")
    parser.add_argument("--clip-model", type=Path, metavar="FOLDER", help="a CLIP model of transformers, for CSDR")
    parser.add_argument(
        "--sensitive-words", type=Path, metavar="FILE.txt", help="words that CSDR leaves out of prompts, one a line (default: none)"
    )
    parser.add_argument(
        "--vary",
        nargs="+",
        action="append",
        default=[],
        metavar=("OPTION", "VALUE"),
        help=f"compare values of an option, in a table of its own; several times. Of {', '.join(OPTIONS)}",
    )
    parser.add_argument("--cross", action="store_true", help="one table with every combination of what --vary names")
    add_trusted_key_argument(parser)
    _add_request_arguments(parser)


def _add_request_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("pictures", "as in saferedir generate")
    group.add_argument("--scheduler", help="sampler (default: the model's own)")
    group.add_argument("--schedule-type", help="how noise levels are spaced (default: as name and model say)")
    group.add_argument(
        "--num-inference-steps", type=int, default=Request.num_inference_steps, help="sampler steps (default: %(default)s)"
    )
    group.add_argument(
        "--guidance-scale", type=float, default=Request.guidance_scale, help="where a file has none (default: %(default)s)"
    )
    group.add_argument(
        "--negative-prompt",
        default=Request.negative_prompt,
        help=f"what not to draw; {COUNTERPART}: what a file has as a prompt's safe counterpart (default: nothing)",
    )
    group.add_argument("--check", choices=CHECKS, help="when the guard looks (default: as built)")
    group.add_argument(
        "--on-unsafe",
        choices=[mode for mode in ON_UNSAFE if mode != "monitor"],
        default=Request.on_unsafe,
        help="what an unsafe picture meets (default: %(default)s)",
    )
    group.add_argument(
        "--on-still-unsafe",
        choices=ON_STILL_UNSAFE,
        default=Request.on_still_unsafe,
        help="what a redirected picture meets that is still unsafe (default: %(default)s)",
    )
    group.add_argument("--height", type=int, help="pixels (default: the model's)")
    group.add_argument("--width", type=int, help="pixels (default: the model's)")


def run(arguments: argparse.Namespace) -> int:
    """Make the pictures, look at them, and write the reports; the exit status."""
    _check(arguments)
    engines = [describe(folder) for folder in arguments.engine_dir]
    tables = conditions(arguments.vary, arguments.cross)
    reading = Reading(arguments.seed, read_templates(arguments.templates), arguments.limit)
    files = [read_prompts(given, reading) for given in arguments.prompts]
    plan = Plan(
        prompts=[prompt for file in files for prompt in file.prompts],
        options={name: getattr(arguments, name) for name in REQUEST} | {"default_guidance_scale": arguments.guidance_scale},
        conditions=list(dict.fromkeys(condition for table in tables for condition in table)),
        measures=_measures(arguments),
        output=arguments.output,
        batch_size=arguments.batch_size,
        size=(arguments.height, arguments.width),
    )
    trials = run_trials(plan, arguments.engine_dir, arguments.trusted_key)
    evaluation = Evaluation(
        command=arguments.command_line,
        versions={"saferedir": __version__, "torchmetrics": version("torchmetrics")},
        engines=engines,
        files=files,
        judges=arguments.judge,
        tables=[[trial for trial in trials if trial.condition in table] for table in tables],
    )
    write_report(evaluation, arguments.output)
    print(f"{arguments.output / 'report.md'}: written, with report.json and grids")
    return DONE


def _measures(arguments: argparse.Namespace) -> Measures:
    words = arguments.sensitive_words.read_text(encoding="utf-8").split("\n") if arguments.sensitive_words else []
    return Measures(
        judges={name: load_judge(name) for name in arguments.judge},
        drift=open_drift(),
        clip=open_clip(arguments.clip_model) if arguments.clip_model else None,
        sensitive_words=tuple(word.strip() for word in words if word.strip()),
    )


def _check(arguments: argparse.Namespace) -> None:
    """Raise InputError for what would only fail later."""
    for name in ("batch_size", "limit"):
        if (value := getattr(arguments, name)) is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')}: expected at least 1, found {value}")
    names = {
        "--judge": arguments.judge,
        "engine_dir": [folder.resolve().name for folder in arguments.engine_dir],
        "--prompts": [Path(given).name for given in arguments.prompts],
    }
    for option, given in names.items():
        if len(set(given)) < len(given):
            raise InputError(f"{option}: expected names of their own, which tables show, found one twice")
    if arguments.sensitive_words and not arguments.clip_model:
        raise InputError("--sensitive-words: expected --clip-model too, which they are for, found none")
