"""The one roof of the commands: help, exit statuses, and that each command brings its own libraries only."""

from __future__ import annotations

import argparse
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from engines import __version__
from engines.errors import BackendError, InputError
from saferedir import cli
from saferedir.cli import COMMANDS, main, parse

ROOT = Path(__file__).resolve().parent.parent
TORCH_FREE = ("generate", "samplers", "inspect", "audit", "verify", "optimize", "doctor")
PLAIN = "a small red star"
# What a command needs, where it is not one argument.
ARGUMENTS = {
    "build": [],
    "doctor": [],
    "sign": ["x", "--key", "x"],
    "train": ["--model", "x", "--pairs", "x", "--output", "x"],
    "evaluate": ["x", "--prompts", "x", "--judge", "x", "--output", "x"],
    "attack": ["x", "--prompts", "x", "--judge", "x", "--attack", "greedy", "--output", "x"],
}


def started(*arguments: str, **settings) -> subprocess.CompletedProcess[str]:
    """A Python process, in the checkout unless `cwd` says otherwise."""
    return subprocess.run([sys.executable, *arguments], **{"cwd": ROOT, "capture_output": True, "text": True, **settings})


@pytest.fixture
def command(monkeypatch):
    """Puts a function in the place of `saferedir inspect`."""

    def install(run, add_arguments=lambda parser: None):
        monkeypatch.setattr(cli, "import_module", lambda name: SimpleNamespace(run=run, add_arguments=add_arguments))

    return install


def raising(error: BaseException):
    def run(arguments):
        raise error

    return run


def test_help_has_a_line_for_each_command_and_the_statuses(capsys):
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("usage: saferedir ")
    for name, row in COMMANDS.items():
        assert any(line.split(maxsplit=1) == [name, row.help] for line in lines), name
    for status in ("0", "2", "3", "130", "141"):
        assert any(line.split(" ", 3)[:3] == ["", "", status] for line in lines), status


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help(name, capsys):
    assert main([name, "--help"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: saferedir {name} ")
    parser = argparse.ArgumentParser()
    import_module(COMMANDS[name].module).add_arguments(parser)
    assert not [action.dest for action in parser._actions if not action.help]


def test_defaults_are_in_the_help(capsys):
    main(["generate", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "sampler steps (default: 50)" in text and "means none (default: 7.5)" in text and "automatic, karras" in text
    main(["build", "--help"])
    assert "above which an image is redirected (default: the checkpoint's, else 0.5)" in " ".join(capsys.readouterr().out.split())


def test_version(capsys):
    import runtime
    import saferedir

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"saferedir {__version__}\n"
    assert runtime.__version__ == saferedir.__version__ == __version__


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "command: expected one of build, generate, .*, found none"),
        (("fly",), "command: expected one of build, .*, found 'fly'"),
        (("--fly",), "command: expected one of build, .*, found '--fly'"),
        (("inspect",), "the following arguments are required: path; saferedir inspect --help lists the options"),
        (("build", "--fly"), "unrecognized arguments: --fly; saferedir build --help"),
        (("generate", PLAIN, "--seed", "x"), "argument --seed: invalid int value: 'x'"),
        (("build", "--back", "openvino"), "unrecognized arguments: --back openvino"),
    ],
    ids=str,
)
def test_a_wrong_command_line_is_one_line_and_status_2(arguments, message, capsys):
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: ") and printed.err.count("\n") == 1
    with pytest.raises(InputError, match=message):
        parse(arguments)


@pytest.mark.parametrize(
    "error, status, printed",
    [
        (BackendError("cuda: expected a GPU,\nfound none"), 2, "error: cuda: expected a GPU, found none\n"),
        (PermissionError(13, "Permission denied", "out.png"), 2, "error: out.png: Permission denied\n"),
        (OSError(28, "No space left on device"), 2, "error: [Errno 28] No space left on device\n"),
        (OSError("cannot write mode F as PNG"), 2, "error: cannot write mode F as PNG\n"),
        (OSError(21, "Is a directory", ".out.png.tmp", None, "out.png"), 2, "error: out.png: Is a directory\n"),
        (KeyboardInterrupt(), 130, "error: interrupted; nothing was changed\n"),
        (BrokenPipeError(32, "Broken pipe"), 141, ""),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_become_one_line_and_a_status(command, capsys, error, status, printed):
    command(raising(error))
    assert main(["inspect"]) == status
    assert capsys.readouterr() == ("", printed)


def test_a_mistake_of_ours_is_not_hidden(command):
    command(raising(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        main(["inspect"])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_an_interruption_leaves(name, monkeypatch, capsys):
    module = import_module(COMMANDS[name].module)
    monkeypatch.setattr(module, "run", raising(KeyboardInterrupt()))
    assert main([name, *ARGUMENTS.get(name, ["x"])]) == 130
    assert capsys.readouterr().err == f"error: interrupted; {COMMANDS[name].interrupted}\n"


@pytest.mark.parametrize("option", ["--output", "--report"])
def test_a_folder_in_the_place_of_a_file(demo_engines, tmp_path, capsys, option):
    (tmp_path / "taken").mkdir()
    arguments = [PLAIN, "--engine-dir", str(demo_engines), "--num-inference-steps", "2", "--output", str(tmp_path / "out.png")]
    assert main(["generate", *arguments, option, str(tmp_path / "taken")]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {tmp_path / 'taken'}: expected a file to write, found a folder"


def test_a_reader_that_has_ended(demo_engines):
    script = f"{sys.executable} -m saferedir inspect {demo_engines} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_console_without_the_character(demo_engines, tmp_path):
    done = started(
        *("-m", "saferedir", "generate", PLAIN + " → ☃", "--engine-dir", str(demo_engines), "--num-inference-steps", "2"),
        *("--seed", "0", "--output", str(tmp_path / "out.png")),
        env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    )
    assert done.returncode == 0 and r"\u2192 \u2603" in done.stdout, done.stderr
    assert started("-m", "saferedir", "generate", "--help", env={"PYTHONIOENCODING": "ascii"}).returncode == 0


@pytest.mark.parametrize("name", TORCH_FREE)
def test_only_the_build_imports_torch(name, demo_engines, tmp_path):
    log = tmp_path / "audit.jsonl"
    log.touch()
    more = {
        "generate": [
            *(PLAIN, "--engine-dir", str(demo_engines), "--num-inference-steps", "2"),
            *("--seed", "0", "--output", str(tmp_path / "out.png")),
        ],
        "audit": [str(log)],
        "optimize": [str(demo_engines), "--output", str(tmp_path / "optimized")],
        "doctor": [],
        "samplers": [],
    }.get(name, [str(demo_engines)])
    script = "import sys; from saferedir.cli import main; assert main(sys.argv[1:]) == 0; print('torch' in sys.modules)"
    assert started("-c", script, name, *more).stdout.splitlines()[-1] == "False"


def test_the_main_parser_imports_no_command():
    script = (
        "import sys; from saferedir.cli import main; main(['--help']); "
        "print({'numpy', 'torch', 'PIL', 'export', 'runtime'} & {*sys.modules})"
    )
    assert started("-c", script).stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize("script, name", [("export/build_engines.py", "build"), ("runtime/generate.py", "generate")])
def test_entry_scripts_work_from_anywhere(script, name, tmp_path):
    done = started(str(ROOT / script), "--help", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith(f"usage: saferedir {name} ")
    done = started(str(ROOT / script), "--fly", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: ")


def test_the_module_is_the_command():
    assert started("-m", "saferedir", "--version").stdout == f"saferedir {__version__}\n"
