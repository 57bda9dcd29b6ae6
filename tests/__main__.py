"""All checks: lint, types, tests on every core. `python -m tests`; arguments go to pytest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHECKS = (
    ["ruff", "check", "."],
    ["ruff", "format", "--check", "."],
    ["mypy"],
    ["mypy", "--strict", "-p", "engines", "-p", "runtime"],
    # A file's tests stay together, for they share what is dear to make.
    ["pytest", "--numprocesses=auto", "--dist=loadfile", *sys.argv[1:]],
)
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # for each process; more would wait for each other


def main() -> int:
    """Run every check, whatever the others say; exit status 1 if one failed."""
    failed = []
    for check in CHECKS:
        print("==", " ".join(check), flush=True)
        if subprocess.run([sys.executable, "-m", *check], cwd=ROOT, env=ONE_THREAD | os.environ).returncode:
            failed.append(check[0])
    print("failed: " + ", ".join(failed) if failed else "all checks passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
