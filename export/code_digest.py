"""The digest of the code that decides a file: a module, and all of ours that it imports, at its top or inside functions."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("engines", "export", "saferedir")
# They run what was built; what a backend's row says of the file itself is in the recipe.
RUNNING = ("engines.backends", "engines.cuda")


def code_digest(*modules: str, root: Path = ROOT) -> str:
    """SHA-256 over the files of the modules and of everything that they import."""
    files = sorted({path for module in modules for path in _reached(module, root)})
    digest = hashlib.sha256()
    for path in files:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _reached(module: str, root: Path) -> set[Path]:
    reached: set[Path] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = root / (name.replace(".", "/") + ".py")
        if path not in reached and path.is_file() and not name.startswith(RUNNING):
            reached.add(path)
            waiting.extend(_imports(path))
    return reached


@cache
def _parsed(path: Path, content: bytes) -> ast.Module:
    return ast.parse(content)


def _imports(path: Path) -> Iterator[str]:
    """Names of modules that a file imports; of `from package import name` both the package and what may be a module of it."""
    for node in ast.walk(_parsed(path, path.read_bytes())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in ROOMS)
