"""Imports run one way, and engines and runtime live without the libraries of the export."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = {
    "engines": {"engines"},
    "runtime": {"runtime", "engines"},
    "saferedir": {"saferedir", "engines"},
    "export": {"export", "engines", "saferedir"},
    "evaluation": {"evaluation", "export", "runtime", "engines", "saferedir"},
    "training": {"training", "evaluation", "export", "engines", "saferedir"},
    "demo": {"demo", "training", "evaluation", "export", "runtime", "engines", "saferedir"},
    "benchmarks": {"benchmarks", "evaluation", "export", "runtime", "engines", "saferedir"},
}
ENTRIES = ("export/build_engines.py", "runtime/generate.py")  # of the commands, in which all rooms meet
HEAVY = ("torch", "diffusers", "transformers", "optimum", "onnx", "safetensors", "scipy")
LIBRARY_NAMES = {*sys.stdlib_module_names, *HEAVY, "numpy", "onnxruntime", "tensorrt", "tokenizers", "matplotlib", "tqdm"} - {
    "__init__"
}


def imported(path: Path) -> set[str]:
    """Top-level names that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_what_they_may(room):
    for path in (ROOT / room).rglob("*.py"):
        if path.relative_to(ROOT).as_posix() in ENTRIES:
            continue
        ours = imported(path) & {*ROOMS, "tests"}
        assert ours <= ROOMS[room], f"{path} imports {ours - ROOMS[room]}"
        if room in ("engines", "runtime"):
            assert not imported(path) & set(HEAVY), path


@pytest.mark.parametrize("room", ROOMS)
def test_entry_scripts_shadow_no_library(room):
    assert not {path.stem for path in (ROOT / room).glob("*.py")} & LIBRARY_NAMES


BARE = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
for name in {HEAVY!r}:
    sys.modules[name] = None
from runtime import GuardedPipeline
with GuardedPipeline(sys.argv[1]) as pipeline:
    print(pipeline("a burning blue square", seed=7, num_inference_steps=8).reports[0].verdict)
"""


def test_generates_without_the_export_libraries(demo_engines):
    done = subprocess.run([sys.executable, "-c", BARE, str(demo_engines)], capture_output=True, text=True)
    assert done.stdout.strip() == "redirected", done.stderr
