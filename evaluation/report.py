"""The report of an evaluation: report.json with every figure and case, report.md with its tables. Neither has a prompt's text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engines.printable import printable
from engines.store.atomic import replacing
from evaluation.cases import Case
from evaluation.classifier import Classifier
from evaluation.figures import DRIFT, Figures, classifiers, of_labels, to_json
from evaluation.formats import LABELS
from evaluation.judges import preserves
from evaluation.prompt_files import PromptFile
from evaluation.trials import Trial

Table = list[list[str]]  # rows of cells, the first its head


@dataclass(frozen=True)
class Evaluation:
    """All that a report is made of. `tables` has trials that are compared with each other."""

    command: str
    versions: dict[str, str]
    engines: list[dict[str, Any]]
    files: list[PromptFile]
    judges: list[str]
    tables: list[list[Trial]]


def write_report(evaluation: Evaluation, output: Path) -> None:
    """report.json and report.md in the folder `output`, each written whole."""
    for name, text in (("report.json", _json(evaluation)), ("report.md", _markdown(evaluation))):
        with replacing(output / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _json(evaluation: Evaluation) -> str:
    content = {
        "command": evaluation.command,
        "versions": evaluation.versions,
        "engines": evaluation.engines,
        "prompt_files": [_file(file) for file in evaluation.files],
        "judges": evaluation.judges,
        "trials": [_trial(trial, evaluation.judges) for table in evaluation.tables for trial in table],
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _file(file: PromptFile) -> dict[str, Any]:
    labels = [prompt.label for prompt in file.prompts]
    counts = {label: labels.count(label) for label in sorted({*labels})}
    return {
        "file": file.name,
        "format": file.format,
        "sha256": file.sha256,
        "prompts": counts,
        "rows_without_prompt": file.without_prompt,
    }


def _trial(trial: Trial, judges: Sequence[str]) -> dict[str, Any]:
    return {
        "engines": trial.engines,
        "condition": str(trial.condition),
        "options": trial.options,
        "figures": to_json(of_labels(trial.cases, judges)),
        "figures_of_files": {name: to_json(of_labels(cases, judges)) for name, cases in _by_file(trial).items()},
        "classifier": to_json(classifiers(trial.cases, judges)),
        "grids": trial.grids,
        "cases": [_case(case) for case in trial.cases],
    }


def _case(case: Case) -> dict[str, Any]:
    """A prompt is told by its digest: who has the file can find it."""
    return {
        "case": case.prompt.case,
        "prompt_sha256": hashlib.sha256(case.prompt.text.encode()).hexdigest(),
        "label": case.prompt.label,
        "seed": case.prompt.seed,
        "unguarded": asdict(case.unguarded),
        "guarded": asdict(case.guarded),
        "identical": case.identical,
        "shows": case.shows,
        "drift": case.drift,
        "clip": case.clip,
    }


def _markdown(evaluation: Evaluation) -> str:
    files: Table = [["prompts", "format", "unsafe", "safe", "rows without a prompt"]]
    for file in map(_file, evaluation.files):
        counts = [str(file["prompts"].get(label, 0)) for label in LABELS]
        files.append([file["file"], file["format"], *counts, str(file["rows_without_prompt"])])
    parts = ["# Evaluation", f"    {printable(evaluation.command)}", _table(files), *map(_engines, evaluation.engines)]
    for table in evaluation.tables:
        parts += _section(table, evaluation.judges)
    return "\n\n".join(parts) + "\n"


def _engines(engines: dict[str, Any]) -> str:
    concepts = ", ".join(guard["concept"] for guard in engines["guards"])
    return printable(f"Engines {engines['name']}: {engines['model']}; guard of {concepts}; {engines['backend']}.")


def _section(trials: Sequence[Trial], judges: Sequence[str]) -> list[str]:
    """The tables of trials that are compared, with 95 % intervals; of a single one, also of each file of prompts."""
    varied = dict.fromkeys(name for trial in trials for name, _ in trial.condition.changes)
    compared = {_name(trial, trials): trial.cases for trial in trials}
    if len(trials) == 1 and len(files := _by_file(trials[0])) > 1:
        compared |= files
    parts = ["## " + (", ".join(varied) or "Options as given"), *_of_labels(compared, judges)]
    parts += _of_truths({_name(trial, trials): classifiers(trial.cases, judges) for trial in trials})
    grids = [f"![{printable(_name(trial, trials))}]({grid})" for trial in trials for grid in trial.grids]
    return parts + (["### Pictures", *grids] if grids else [])


def _by_file(trial: Trial) -> dict[str, list[Case]]:
    files = dict.fromkeys(case.prompt.file for case in trial.cases)
    return {file: [case for case in trial.cases if case.prompt.file == file] for file in files}


def _of_labels(compared: dict[str, list[Case]], judges: Sequence[str]) -> list[str]:
    figures = {name: of_labels(cases, judges) for name, cases in compared.items()}
    parts: list[str] = []
    for label in LABELS:
        rows = [(name, each[label]) for name, each in figures.items() if label in each]
        if rows:
            parts += [f"### Prompts labelled {label}", *(_answers(rows, judge, label) for judge in judges), _guard(rows)]
        if any(each.triggered.hits or each.csdr.n for _, each in rows):
            parts.append(_drift(rows))
    return parts


def _of_truths(found: dict[str, dict[str, Classifier]]) -> list[str]:
    parts = []
    for truth in dict.fromkeys(name for each in found.values() for name in each):
        title = "the prompts' labels" if truth == "label" else f"what `{printable(truth)}` sees without the guard"
        rows = [(name, each[truth]) for name, each in found.items() if truth in each]
        parts += [f"### The guard as a classifier, against {title}", _classifier(rows)]
    return parts


def _name(trial: Trial, trials: Sequence[Trial]) -> str:
    several = len({other.engines for other in trials}) > 1
    return f"{trial.engines}: {trial.condition}" if several else str(trial.condition)


def _answers(rows: Sequence[tuple[str, Figures]], judge: str, label: str) -> str:
    forget = label == "unsafe" and not preserves(judge)
    named = " (ASR)" if forget else " (PDR)" if preserves(judge) else ""
    head = ["", f"`{printable(judge)}` without guard", f"with guard{named}"]
    table: Table = [head + (["not with guard (FSR)", "with guard, of those without"] if forget else [])]
    for name, figures in rows:
        answers = figures.answers[judge]
        shares = [answers.before, answers.after] + ([answers.forgotten, answers.remaining] if forget else [])
        table.append([name, *map(str, shares)])
    return _table(table)


def _guard(rows: Sequence[tuple[str, Figures]]) -> str:
    table: Table = [["", "triggered", "withheld", "of these failed", "identical, of the untriggered", "identical, of all"]]
    for name, each in rows:
        shares = (each.triggered, each.withheld, each.failed, each.untriggered_identical, each.identical)
        table.append([name, *map(str, shares)])
    return _table(table)


def _drift(rows: Sequence[tuple[str, Figures]]) -> str:
    table: Table = [["triggered pictures", "SSIM", "MS-SSIM", "PSNR, dB", "CSDR, %"]]
    table += [[name, *(str(each.drift[measure]) for measure in DRIFT), str(each.csdr)] for name, each in rows]
    return _table(table)


def _classifier(rows: Sequence[tuple[str, Classifier]]) -> str:
    table: Table = [["", "precision", "recall", "false positives", "F1", "area under ROC"]]
    for name, each in rows:
        table.append([name, *map(str, (each.precision, each.recall, each.false_positive_rate, each.f1, each.auc))])
    return _table(table)


def _table(rows: Table) -> str:
    cells = [[printable(cell).replace("|", "\\|") for cell in row] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])
