"""Attack the guard of engines: search prompts on their PyTorch twin, and draw what is found with the engines.

Prompts are written to found.json in the output folder, to the file of --refine, and nowhere else. A run that was interrupted goes
on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engines.errors import InputError
from engines.exit_status import DONE
from engines.policy import CHECKS
from engines.printable import printable, shown
from engines.store.atomic import replacing
from engines.store.digests import file_digest
from engines.store.engine_store import EngineStore
from engines.store.signature import add_trusted_key_argument
from evaluation.attacks.budget import Budget
from evaluation.attacks.campaign import draw_all, refined, search_all
from evaluation.attacks.phrasing import Material
from evaluation.attacks.prompts import read_prompts, read_words
from evaluation.attacks.record import continued
from evaluation.attacks.registry import ATTACKS, Means
from evaluation.attacks.report import write_report
from evaluation.attacks.target import Prompt, Target
from evaluation.attacks.words import Words
from evaluation.device import checked_device
from evaluation.judges import load_judge
from evaluation.rebuilt_twin import rebuild_twin
from evaluation.sampling import RunOptions
from evaluation.twin import Twin
from runtime import GuardedPipeline


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("engine_dir", type=Path, help="folder made by saferedir build, with a guard")
    parser.add_argument(
        "--prompts",
        type=Path,
        required=True,
        metavar="FILE",
        help='prompts that ask for the concept: JSON list of {"safe": …, "unsafe": …}, or text with one on each line',
    )
    parser.add_argument(
        "--judge", required=True, metavar="MODULE:FUNCTION", help="says whether a picture, uint8 [H, W, 3], shows the concept"
    )
    names = "; ".join(f"{name} needs {attack.needs}" for name, attack in ATTACKS.items())
    parser.add_argument("--attack", nargs="+", required=True, choices=list(ATTACKS), metavar="NAME", help=names)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for found.json and the report")
    parser.add_argument(
        "--words", type=Path, metavar="FILE", help="words that may be added, one on each line (default: the tokenizer's own)"
    )
    parser.add_argument(
        "--refine", type=Path, metavar="FILE", help="write what succeeded as pairs to train with; needs prompts with counterparts"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the first prompt's picture and of the searches (default: %(default)s)"
    )
    parser.add_argument(
        "--unguarded",
        action="store_true",
        help="search for the generator alone, as if it had no guard; what is found is drawn without the guard and with it",
    )
    parser.add_argument(
        "--original",
        type=Path,
        metavar="ENGINE_DIR",
        help="engines of the generator before it unlearned the concept: searches want what it draws (default: what the unguarded "
        "generator draws)",
    )
    parser.add_argument("--batch-size", type=int, default=4, help="pictures that the engines draw at a time (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="of the searches, PyTorch's name of it, as cuda (default: %(default)s)")
    _add_run_arguments(parser.add_argument_group("pictures"))
    budget = parser.add_argument_group("budget", "what each attack may spend on a prompt")
    for each in dataclasses.fields(Budget):
        kind, default = (float, "none") if each.name == "seconds" else (int, str(each.default))
        text = f"{each.metadata['help']} (default: {default})"
        budget.add_argument(f"--{each.name}", type=kind, default=each.default, help=text)
    add_trusted_key_argument(parser)


def _add_run_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--num-inference-steps", type=int, default=RunOptions.num_inference_steps, help="sampler steps (default: %(default)s)"
    )
    group.add_argument(
        "--guidance-scale", type=float, default=RunOptions.guidance_scale, help="classifier-free guidance (default: %(default)s)"
    )
    group.add_argument("--scheduler", help="sampler: any name that saferedir samplers lists (default: the model's own)")
    group.add_argument("--check", choices=CHECKS, help="when the guard looks (default: as built)")


def run(arguments: argparse.Namespace) -> int:
    """Search, draw, report; exit status 0."""
    prompts = _prompts(arguments)
    budget = Budget(**{each.name: getattr(arguments, each.name) for each in dataclasses.fields(Budget)})
    options = RunOptions(**{each.name: getattr(arguments, each.name) for each in dataclasses.fields(RunOptions)})
    device, judge = checked_device(arguments.device), load_judge(arguments.judge)
    store = EngineStore(arguments.engine_dir, arguments.trusted_key)
    original = None if arguments.original is None else EngineStore(arguments.original, arguments.trusted_key)
    _check_original(store, original)
    arguments.output.mkdir(parents=True, exist_ok=True)
    record = continued(arguments.output, _settings(arguments, store, original, budget, options, len(prompts)))
    wanted = None if original is None else rebuild_twin(original, device)
    target = Target(rebuild_twin(store, device), judge, options, not arguments.unguarded, wanted)
    _say(f"{arguments.engine_dir}: the twin computes what the engines do")
    means = _means(arguments.words, target.twin, prompts, budget)
    record = search_all(record, arguments.output, arguments.attack, target, prompts, means, _say)
    with GuardedPipeline(arguments.engine_dir, trusted_keys=arguments.trusted_key) as pipeline:
        record = draw_all(record, arguments.output, pipeline, target, prompts, arguments.batch_size, _say)
    print(write_report(arguments.output, record), end="")
    if arguments.refine is not None:
        pairs = refined(record, prompts)
        with replacing(arguments.refine) as temporary:
            temporary.write_text(json.dumps(pairs, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(printable(f"{len(pairs)} pairs to train with -> {arguments.refine}"))
    return DONE


def _prompts(arguments: argparse.Namespace) -> list[Prompt]:
    if arguments.batch_size < 1:
        raise InputError(f"--batch-size: expected at least 1, found {arguments.batch_size}")
    if arguments.unguarded and arguments.refine is not None:
        raise InputError("--refine: expected a search for the guarded generator, found --unguarded; leave one out")
    prompts = read_prompts(arguments.prompts, arguments.seed)
    if arguments.refine is not None and any(prompt.safe is None for prompt in prompts):
        raise InputError(
            f"--refine: expected prompts with counterparts, to write pairs, found none in {arguments.prompts}; give --prompts a "
            'JSON list of {"safe": …, "unsafe": …}'
        )
    return prompts


def _check_original(store: EngineStore, original: EngineStore | None) -> None:
    """Raise InputError unless the original generator takes what the other one does."""
    if original is None:
        return
    found, expected = original.manifest, store.manifest
    if (found.geometry, found.scheduler) != (expected.geometry, expected.scheduler):
        raise InputError(
            f"--original: expected engines of {shown(str(store.folder))}'s sizes and scheduler, found others in "
            f"{shown(str(original.folder))}; build both from the same model"
        )


def _settings(
    arguments: argparse.Namespace,
    store: EngineStore,
    original: EngineStore | None,
    budget: Budget,
    options: RunOptions,
    prompts: int,
) -> dict[str, Any]:
    """All that decides what is found and how it is judged, for the record."""
    return {
        "manifest_digest": store.digest,
        "original_digest": None if original is None else original.digest,
        "unguarded": arguments.unguarded,
        "prompts": prompts,
        "prompts_digest": file_digest(arguments.prompts),
        "words_digest": None if arguments.words is None else file_digest(arguments.words),
        "judge": arguments.judge,
        "seed": arguments.seed,
        "run": dataclasses.asdict(options),
        "budget": dataclasses.asdict(budget),
    }


def _means(words: Path | None, twin: Twin, prompts: Sequence[Prompt], budget: Budget) -> Means:
    """Words of the user's file, or the tokenizer's own; other prompts are the counterparts of all."""
    allowed = None if words is None else read_words(words)
    whole = Words.of(twin, allowed)
    others = [prompt.safe for prompt in prompts if prompt.safe is not None]
    return Means(whole, Material(whole.texts if allowed is None else allowed, others), budget)


def _say(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)
