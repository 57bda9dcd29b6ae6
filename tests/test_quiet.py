"""No library reports home from our processes: a fresh home folder stays as it was."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
IMPORTS = {
    "onnxruntime": "import engines.backends.onnxruntime_cpu",
    "openvino": "import engines.backends.openvino_cpu",
    "every backend": "from engines.backends.registry import open_backend; open_backend('onnxruntime'); open_backend('openvino')",
    "serving": "import runtime.serving.app",
    "nncf": "from export.precision.int8 import import_nncf; import_nncf()",
    "export": "import export.build, onnxruntime",
    "benchmarks": "import benchmarks.suite.floor",
}


def files_after(script: str, home: Path) -> list[str]:
    """What a fresh process leaves under an empty home folder."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY", "CI", "TF_BUILD")}
    inherited |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=inherited, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return sorted(path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", IMPORTS)
def test_nothing_is_left_under_a_fresh_home(name, tmp_path):
    assert files_after(IMPORTS[name], tmp_path) == []


def test_one_who_asked_for_reports_is_obeyed():
    script = "import os, engines; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    for given, expected in (({}, "1"), ({"ORT_DISABLE_TELEMETRY": "0"}, "0")):
        environment = {**{name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}, **given}
        done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.stdout.strip() == expected, done.stderr
