"""`saferedir train` as a whole, on a model of random weights that draws and learns within seconds."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from engines.errors import InputError
from engines.pairs import Pair
from engines.policy import Policy
from engines.store.digests import file_digest
from export.build_command import DEMO_REDIRECTOR, options
from saferedir.checkpoint import load_redirector
from saferedir.cli import parse
from saferedir.metadata import read_metadata
from tests.export.miniature import WIDTH, configs, save_model
from training.card import CARD, README
from training.guard_files import GUARD, PUBLISHED
from training.settings import TrainingSettings
from training.train import train_guard
from training.train_command import request

ROOT = Path(__file__).resolve().parents[2]
COLOURS = ("red", "green", "blue", "pink", "teal", "white")
PAIRS = [Pair(f"a {colour} star", f"a burning {colour} star") for colour in COLOURS]
NUMBERS = {
    "batches": 2,
    "redirected-batches": 1,
    "pairs-per-batch": 2,
    "kept-steps": 2,
    "least-steps": 2,
    "most-steps": 3,
    "steps": 4,
    "batch-size": 6,
    "evaluate-every": 2,
}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    save_model(folder / "model", configs("sd1"), "<|endoftext|>")
    (folder / "pairs.json").write_text(json.dumps([dataclasses.asdict(pair) for pair in PAIRS]))
    (folder / "more.csv").write_text("safe,unsafe\na black star,a black star in flames\n")
    (folder / "benign.txt").write_text("a small circle\na large cross\na white square\n")
    (folder / "wordings.json").write_text('{"burning": ["ablaze"]}')
    return folder


def command(work, output, *more):
    numbers = [part for name, value in NUMBERS.items() for part in (f"--{name}", str(value))]
    files = ["--model", work / "model", "--pairs", work / "pairs.json", "--output", work / output]
    return [*map(str, ("train", *files, "--encoder-widths", "4,4,8", *numbers, *more))]


def full(work, output):
    """A command with every file."""
    more = ["--pairs", work / "more.csv", "--benign", work / "benign.txt", "--safe-prompts", work / "benign.txt"]
    more += ["--wordings", work / "wordings.json", "--concept", "fire", "--judge", "tests.training.judge:is_odd"]
    return command(work, output, *more)


@pytest.fixture(scope="module")
def trained(work):
    """The folder of a whole training, and its card."""
    return work / "trained", train_guard(request(parse(full(work, "trained"))), lambda line: None)


def test_the_checkpoint_has_the_published_names_and_the_files_are_equal(trained):
    folder, card = trained
    published, guard = torch.load(folder / PUBLISHED, weights_only=True), load_file(folder / GUARD)
    assert published.keys() == guard.keys() == load_redirector(DEMO_REDIRECTOR).state_dict().keys()
    assert all(torch.equal(tensor, guard[name]) for name, tensor in published.items())
    assert load_redirector(folder / PUBLISHED).config.encoder_widths == (4, 4, 8)
    assert load_redirector(folder / GUARD).config.embed_dim == WIDTH
    assert card.checkpoints == {name: file_digest(folder / name) for name in (GUARD, PUBLISHED)}


def test_the_build_takes_over_what_the_metadata_says(work, trained):
    folder, card = trained
    metadata = read_metadata(folder / GUARD)
    assert metadata.concept == "fire" and metadata.canaries == card.canaries
    thresholds = {"threshold": card.threshold.threshold, "final_threshold": card.final_check.threshold}
    assert metadata.policy == Policy(**thresholds, alpha_scale=card.strength.alpha_scale, shift="conditional")
    assert not metadata.final_check, "four pictures prove nothing"
    line = ["build", "--model", str(work / "model"), "--redirector", str(folder / GUARD)]
    (checkpoint,) = options(parse(line)).checkpoints
    assert (checkpoint.concept, checkpoint.policy, checkpoint.final_check) == ("fire", metadata.policy, False)


def test_the_card_says_what_was_done_and_repeats_no_prompt(trained):
    folder, card = trained
    content, text = json.loads((folder / CARD).read_text()), (folder / README).read_text()
    assert content == json.loads(json.dumps(dataclasses.asdict(card)))
    assert [stage["name"] for stage in content["stages"]] == ["plain", "redirected"]
    assert content["request"]["steps"] == 4 and content["request"]["judge"] == "tests.training.judge:is_odd"
    assert content["data"]["training_pairs"] == 6 and content["data"]["held_out_pairs"] == 1 and content["data"]["benign"] == 3
    assert content["threshold"]["trajectories"] <= 3
    assert content["steps"].keys() == {"prompts as written", "redirected prompts"} and content["final_check"] is not None
    canaries = {canary.prompt for canary in card.canaries}
    for prompt in (prompt for pair in PAIRS for prompt in (pair.safe, pair.unsafe)):
        assert prompt in canaries or json.dumps(prompt) not in (folder / CARD).read_text() + json.dumps(text)


def test_shards_hold_what_the_heads_learn_from(trained):
    folder, _ = trained
    (redirected,) = sorted((folder / "trajectories" / "redirected").glob("*.safetensors"))
    tensors = load_file(redirected)
    assert tensors["asked"].all() and tensors["shift"].abs().max() > 0
    last = tensors["final"]
    assert last.sum() == len(tensors["asked"]), "every trajectory ends with its final latents"
    assert torch.equal(tensors["unsafe"][last], tensors["shown"]), "under redirection the judge decides"
    assert (tensors["timesteps"] < 600).all() and (tensors["timesteps"][last] == 0).all()
    plain = load_file(sorted((folder / "trajectories" / "plain").glob("*.safetensors"))[0])
    assert "shift" not in plain and (plain["target_shift"][~plain["asked"]] == 0).all()
    assert plain["differs"][plain["asked"]].any(dim=1).all() and not plain["differs"][~plain["asked"]].any()
    assert torch.equal(plain["unsafe"][plain["final"]], plain["asked"] | plain["shown"])


KILLED = """
import os, signal, sys
from training import train
from saferedir.cli import main

shards, recorded = train.record, []

def record(*arguments):
    recorded.append(1)
    if len(recorded) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return shards(*arguments)

train.record = record
main(sys.argv[1:])
"""


def test_a_run_that_was_killed_ends_like_one_that_was_not(work, trained):
    folder, line = work / "killed", full(work, "killed")
    done = subprocess.run([sys.executable, "-c", KILLED, *line], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    shards = [path.name for path in (folder / "trajectories" / "plain").glob("*.safetensors")]
    assert shards == ["00000.safetensors"] and not (folder / GUARD).exists()
    card = train_guard(request(parse(line)), lambda text: None)
    assert card == trained[1], "the same seed gives the same guard, to the last bit"


def test_finished_stages_are_not_trained_again(work, trained, monkeypatch):
    monkeypatch.setattr("training.train.train_heads", lambda *arguments: pytest.fail("trained again"))
    assert train_guard(request(parse(full(work, "trained"))), lambda text: None) == trained[1]


def test_a_published_checkpoint_is_trained_further_without_a_judge(work, trained):
    folder, _ = trained
    line = command(work, "further", "--init", folder / PUBLISHED)
    del line[line.index("--encoder-widths") : line.index("--encoder-widths") + 2]
    card = train_guard(request(parse(line)), lambda text: None)
    assert [stage.name for stage in card.stages] == ["plain"] and card.final_check is None and not card.final_check_trusted
    assert card.labels == "what each prompt asks for; no judge looked at pictures" and card.concept == "further"
    before, after = load_file(folder / GUARD), load_file(work / "further" / GUARD)
    assert {name: tensor.shape for name, tensor in before.items()} == {name: tensor.shape for name, tensor in after.items()}
    moved = sum((before[name] - tensor).abs().sum() for name, tensor in after.items())
    assert 0 < moved / sum(tensor.abs().sum() for tensor in before.values()) < 0.2, "from where they were"


@pytest.mark.parametrize(
    "more, expected",
    [
        (["--init", "{demo}"], "expected without init"),
        (["--held-out", "0.95"], "held_out: expected 0.0 to 0.9"),
        (["--steps", "0"], "steps: expected 1 to"),
        (["--precision", "float16"], "precision: expected one of float32, bfloat16, found 'float16'"),
        (["--least-steps", "5"], "expected at most most_steps"),
        (["--judge", "tests.training.judge"], "expected module:function"),
        (["--concept", "fi\nre"], "concept: expected"),
        (["--device", "none"], "device: expected one that PyTorch has here"),
        (["--pairs", "none.csv"], "none.csv"),
        (["--output", "{model}/x"], "expected a folder apart from the model's"),
        (["--seed", "1"], "found those of others"),
    ],
)
def test_what_cannot_be_done_is_an_error(work, trained, more, expected):
    given = [part.format(demo=DEMO_REDIRECTOR, model=work / "model") for part in more]
    with pytest.raises(InputError, match=expected):
        train_guard(request(parse([*full(work, "trained"), *given])), lambda text: None)


def test_precision_has_the_short_names_that_build_takes():
    assert [TrainingSettings(precision=name).precision for name in ("fp32", "bf16")] == ["float32", "bfloat16"]


def test_options_are_checked_by_the_command():
    for line, expected in (
        (["train"], "required"),
        (["train", "--model", "m", "--pairs", "p", "--output", "o", "--frobnicate"], "unrecognized"),
        (["train", "--model", "m", "--pairs", "p", "--output", "o", "--encoder-widths", "1,2"], "expected three numbers"),
        (["train", "--model", "m", "--pairs", "p", "--output", "o", "--encoder-widths", "1,2,0"], "numbers from 1 on"),
        (["train", "--model", "m", "--pairs", "p", "--output", "o", "--adversarial-rounds", "1"], "expected with a judge"),
    ):
        with pytest.raises(InputError, match=expected):
            request(parse(line))


def test_heads_of_another_width_are_refused(work):
    line = command(work, "other", "--init", DEMO_REDIRECTOR)
    del line[line.index("--encoder-widths") : line.index("--encoder-widths") + 2]
    with pytest.raises(InputError, match=f"expected heads for prompts of width {WIDTH}.*found 96"):
        train_guard(request(parse(line)), lambda text: None)
