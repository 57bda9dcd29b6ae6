"""A guard of several checkpoints: names, policies and check mode as they say, and only the guard's networks are built again."""

from __future__ import annotations

import shutil

import pytest
import torch

from engines.errors import InputError
from engines.manifest import Manifest
from engines.networks import GUARD_NETWORKS
from engines.policy import CHECKS, Policy
from export.build import build
from export.build_command import DEMO_MODEL, DEMO_REDIRECTOR, options
from export.guard_arguments import STRICTEST_FIRST
from saferedir.checkpoint import load_redirector, save_redirector
from saferedir.cli import parse
from saferedir.metadata import Metadata


def asked(*arguments: str):
    return options(parse(["build", *arguments]))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Checkpoints by name, most with metadata; "moved" is "plain" with other weights."""
    folder, heads = tmp_path_factory.mktemp("checkpoints"), load_redirector(DEMO_REDIRECTOR)
    metadata = {
        "flames": Metadata(concept="fire", policy=Policy(threshold=0.25), check="beside", final_check=True),
        "drawn": Metadata(concept="style", policy=Policy(shift="conditional"), check="before"),
        "again": Metadata(concept="fire"),
    }
    for name, content in metadata.items():
        save_redirector(heads, folder / f"{name}.safetensors", content)
    save_redirector(heads, folder / "plain.pt")
    save_redirector(heads, folder / "a=b.pt")
    with torch.no_grad():
        heads.pos_embed += 1
    save_redirector(heads, folder / "moved.pt")
    return {path.stem: f"--redirector={path}" for path in folder.iterdir()}


def test_names_policies_and_checks_are_the_checkpoints(files, capsys):
    request = asked(files["flames"], files["drawn"], files["plain"])
    assert [checkpoint.concept for checkpoint in request.checkpoints] == ["fire", "style", "plain"]
    assert [checkpoint.policy for checkpoint in request.checkpoints] == [
        Policy(threshold=0.25),
        Policy(shift="conditional"),
        Policy(),
    ]
    assert [checkpoint.final_check for checkpoint in request.checkpoints] == [True, False, False]
    assert request.check == "before"
    expected = "check: before for all concepts, the strictest of their checkpoints' (fire beside, style before, plain auto)\n"
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize(
    "names, given, check",
    [
        (["flames", "plain"], [], "auto"),
        (["flames"], [], "beside"),
        (["flames", "drawn"], ["--check", "beside"], "beside"),
        (["drawn"], [], "before"),
    ],
    ids=str,
)
def test_the_strictest_check_wins_unless_one_is_asked_for(files, names, given, check, capsys):
    assert asked(*(files[name] for name in names), *given).check == check
    assert bool(capsys.readouterr().out) is (names == ["flames", "plain"])
    assert sorted(STRICTEST_FIRST) == sorted(CHECKS)


def test_the_command_line_names_concepts_in_order_and_has_a_policy_for_each(files):
    numbers = ["--threshold=0.5", "--policy=b:threshold=0.75,shift=both"]
    request = asked(files["flames"], "--concept=a", files["drawn"], "--concept=b", *numbers)
    assert [(each.concept, each.policy) for each in request.checkpoints] == [("a", Policy()), ("b", Policy(threshold=0.75))]


def test_canaries_are_given_by_concept(files, tmp_path):
    path = tmp_path / "canaries.json"
    path.write_text('{"style": [{"prompt": "a blue square", "unsafe": false, "seed": 3}]}')
    fire, style = asked(files["flames"], files["drawn"], f"--canaries={path}").checkpoints
    assert fire.canaries == () and [canary.prompt for canary in style.canaries] == ["a blue square"]


@pytest.mark.parametrize(
    "names, given, message",
    [
        (
            ["flames", "again"],
            [],
            "again.safetensors: expected a concept of its own, found 'fire', as for .*flames.safetensors; choose --concept",
        ),
        (
            ["flames", "drawn"],
            ["--concept=a", "--concept=a"],
            "drawn.safetensors: expected a concept of its own, found 'a', as for .*flames",
        ),
        (["flames", "drawn"], ["--concept=a"], "--concept: expected one for each of 2 checkpoints, or none, found 1"),
        (["flames"], ["--concept=a", "--concept=b"], "--concept: expected one for each of 1 checkpoints, or none, found 2"),
        (["flames"], ["--concept=a:b"], "flames.safetensors: --concept: expected a concept's name .* found 'a:b'"),
        (["a=b"], [], "a=b.pt: --concept: expected a concept's name .* found 'a=b'"),
        (["flames", "drawn"], ["--policy=fire:off"], "--policy fire:off: expected numbers; off is said to saferedir generate"),
        (["flames", "drawn"], ["--policy=drawn:threshold=0.1"], "--policy: expected a concept of fire, style, found 'drawn'"),
        ([], ["--unguarded", "--concept=fire"], "--unguarded and --concept: expected one of them, found both"),
        ([], ["--unguarded", "--policy=fire:threshold=0.1"], "--policy: expected a concept of none, found 'fire'"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_one_error(files, names, given, message):
    with pytest.raises(InputError, match=message):
        asked(*(files[name] for name in names), *given)


def test_a_checkpoint_that_is_added_or_changed_rebuilds_the_guards_networks_alone(demo_engines, files, tmp_path):
    folder = shutil.copytree(demo_engines, tmp_path / "demo")

    def built_with(second: str) -> list[str]:
        lines: list[str] = []
        demo = ["--model", str(DEMO_MODEL), "--redirector", str(DEMO_REDIRECTOR), files[second]]
        build(asked("--engine-dir", str(folder), *demo, "--concept=fire", "--concept=other"), lines.append)
        return [line.split("]")[1].split()[0] for line in lines if line.startswith("[") and "kept" not in line]

    for second in ("plain", "moved"):
        assert built_with(second) == [*GUARD_NETWORKS]
        assert [guard.concept for guard in Manifest.read(folder)[0].guards] == ["fire", "other"]
    assert built_with("moved") == []
