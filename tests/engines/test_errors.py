"""engines/errors.py draws every error that this toolkit raises on purpose."""

from __future__ import annotations

import ast
import builtins
from pathlib import Path

from engines import errors

ROOT = Path(__file__).resolve().parent.parent.parent
ROOMS = ("saferedir", "engines", "export", "runtime", "evaluation", "training", "demo", "benchmarks")
BUILT_IN = {name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, BaseException)}
WARNINGS = {name for name in BUILT_IN if issubclass(getattr(builtins, name), Warning)}


def defined() -> dict[str, list[str]]:
    """Exception classes of all rooms, warnings excepted; class → names of its bases."""
    bases = {
        node.name: [base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "") for base in node.bases]
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }
    found: set[str] = set()
    while more := {name for name in bases if {*bases[name]} & (found | BUILT_IN - WARNINGS)} - found:
        found |= more
    return {name: bases[name] for name in found}


def drawn() -> dict[str, str | None]:
    """The tree of the docstring: class → its parent."""
    parents: dict[str, str | None] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").split("\n\n")[1].splitlines():
        name = line.lstrip("│├└─ ").split()[0]
        del path[line.index(name) // 4 :]
        parents[name] = path[-1] if path else None
        path.append(name)
    return parents


def test_every_error_is_drawn_below_its_base():
    tree, classes = drawn(), defined()
    assert set(tree) == set(classes)
    for name, parent in tree.items():
        assert (parent or "Exception") == classes[name][0]


def test_functions_find_them():
    assert "CheckpointError" in defined() and "TruncationWarning" not in defined()
    assert drawn()["DigestError"] == "EngineError" and drawn()["SafeRedirError"] is None
