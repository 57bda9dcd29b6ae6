"""Guarded Stable Diffusion on inference engines: build them, generate with them, check them.

Exit statuses of every command:
  0    done
  2    it could not be done; one line on standard error says why
  3    generate: an image was refused; those that were not are written
  130  interrupted from the keyboard; one line says what state things are in
  141  the program that read the output has ended, as `head` does
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NamedTuple, NoReturn

from engines import __version__
from engines.errors import InputError, SafeRedirError
from engines.exit_status import BROKEN_PIPE, DONE, FAILED, INTERRUPTED
from engines.printable import printable


class Command(NamedTuple):
    """A command: its module has `add_arguments(parser)` and `run(arguments)`, which returns the exit status.

    Only the module of the chosen command is imported. Its docstring is the command's description.
    """

    module: str
    help: str
    interrupted: str  # the state of things after an interruption


COMMANDS = {
    "build": Command(
        "export.build_command", "build engines from a model and a guard's checkpoint", "the previous engines are as they were"
    ),
    "generate": Command(
        "runtime.generate_command",
        "generate guarded pictures",
        "no picture is half written",
    ),
    "serve": Command("runtime.serving.serve_command", "serve guarded pictures over HTTP", "what was accepted was drawn"),
    "ui": Command(
        "runtime.serving.ui_command", "open a page to generate guarded pictures", "the pictures that you did not save are gone"
    ),
    "train": Command(
        "training.train_command",
        "train a guard for a model from pairs of prompts",
        "what was recorded and trained is kept; the same command goes on from there",
    ),
    "evaluate": Command(
        "evaluation.evaluate_command",
        "measure a guard on prompts, with judges of pictures",
        "the same command goes on where it stopped",
    ),
    "attack": Command(
        "evaluation.attack_command",
        "search prompts that a guard misses, and draw them",
        "what was found is kept; the same command goes on from there",
    ),
    "samplers": Command("runtime.samplers_command", "list the samplers, their names and options", "nothing was changed"),
    "inspect": Command(
        "runtime.inspect_command",
        "say what engines are made of, or a picture's report",
        "nothing was changed",
    ),
    "audit": Command("runtime.serving.audit_command", "verify a server's audit log", "nothing was changed"),
    "verify": Command("engines.store.parity_check", "compare engines with PyTorch's outputs, here", "nothing was changed"),
    "sign": Command("engines.store.signing", "sign engines, so that others can require your key", "no signature was written"),
    "optimize": Command(
        "engines.optimize",
        "copy ONNX Runtime's engines for a fast start on one CPU",
        "no copy was written",
    ),
    "doctor": Command(
        "engines.doctor",
        "say which backends run and build here, or why not",
        "nothing was changed",
    ),
}


# Functions that the build calls and may not import: only here may it know of the runtime.
ABOVE_THE_BUILD = {
    "judge_scheduler": "runtime.samplers.registry",
    "record_inputs": "runtime.recording",
    "compare_decisions": "evaluation.decisions",
}


class Parser(argparse.ArgumentParser):
    """Raises InputError for a wrong command line, so that it ends like any other error: in one line."""

    def __init__(self, **settings: str | None) -> None:
        super().__init__(**settings, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; {self.prog} --help lists the options")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line, `sys.argv`'s by default; its exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    _print_any_character()
    try:
        status: int = import_module(_command(argv).module).run(parse(argv))
        return status if _flushed() else FAILED
    except SystemExit:  # argparse has printed the help or the version
        return DONE
    except SafeRedirError as error:
        return _fail(str(error), FAILED)
    except BrokenPipeError:
        _close_output()
        return BROKEN_PIPE
    except OSError as error:
        return _fail(_reason(error) if _close_output() else f"standard output: {error.strerror}", FAILED)
    except KeyboardInterrupt:
        return _fail(f"interrupted; {_command(argv).interrupted}", INTERRUPTED)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options of a command line. Among them, `command_line` is the line itself, for records, and there are the functions of
    ABOVE_THE_BUILD.

    Raises:
        InputError: no such command, or an option is unknown, lacks its value or has one of another type.
        SystemExit: the help or the version was asked for, and is printed.
    """
    module = import_module(_command(argv).module)
    parser = Parser(prog=f"saferedir {argv[0]}", description=module.__doc__)
    module.add_arguments(parser)
    arguments = parser.parse_args(argv[1:])
    arguments.command_line = shlex.join(["saferedir", *argv])
    for name, room in ABOVE_THE_BUILD.items():
        setattr(arguments, name, _later(room, name))
    return arguments


def _later(module: str, name: str) -> Callable[..., Any]:
    """A function whose module is imported when it is called."""

    def call(*arguments: Any, **options: Any) -> Any:
        return getattr(import_module(module), name)(*arguments, **options)

    return call


def _command(argv: Sequence[str]) -> Command:
    name = argv[0] if argv else None
    if name in ("-h", "--help", "--version"):
        _main_parser().parse_args([name])
    if name not in COMMANDS:
        found = "none" if name is None else repr(name)
        raise InputError(f"command: expected one of {', '.join(COMMANDS)}, found {found}; saferedir --help says what each does")
    return COMMANDS[name]


def _main_parser() -> argparse.ArgumentParser:
    """Prints the help and the version; it parses no command line."""
    description, epilog = (__doc__ or "\n\n").split("\n\n", 1)
    parser = Parser(prog="saferedir", usage="saferedir COMMAND ...", description=description, epilog=epilog)
    parser.add_argument("--version", action="version", version=f"saferedir {__version__}", help="print the version")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", description="saferedir COMMAND --help lists its options")
    for name, command in COMMANDS.items():
        commands.add_parser(name, help=command.help)
    return parser


def _fail(message: str, status: int) -> int:
    try:
        print("error:", printable(" ".join(message.split("\n"))), file=sys.stderr, flush=True)
    except OSError:
        _close_output()
    return status


def _flushed() -> bool:
    """Print what is buffered; a disk that is full, say, is told in one line. Raises BrokenPipeError."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _close_output()
        _fail(f"standard output: {error.strerror}", FAILED)
        return False
    return True


def _reason(error: OSError) -> str:
    """The file's name and why. Of two names, as a rename has, the second is the one that the user gave."""
    name = error.filename if error.filename2 is None else error.filename2
    return f"{name}: {error.strerror}" if name is not None and error.strerror else str(error) or type(error).__name__


def _print_any_character() -> None:
    """Let a console that lacks a character print its escape sequence."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # a stream that is not a file, as some programs put in place
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def _close_output() -> bool:
    """Send what cannot be printed to os.devnull, else Python prints an error at exit. Whether standard output can be printed to."""
    failed = []
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, AttributeError):
            try:
                stream.flush()
            except OSError:
                failed.append(stream)
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return sys.stdout not in failed
