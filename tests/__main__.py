"""All checks: lint, types, tests. `python -m tests`; arguments go to pytest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHECKS = (
    ["ruff", "check", "."],
    ["ruff", "format", "--check", "."],
    ["mypy"],
    ["mypy", "--strict", "-p", "engines", "-p", "runtime"],
    ["pytest", *sys.argv[1:]],
)


def main() -> int:
    """Run every check, whatever the others say; exit status 1 if one failed."""
    failed = []
    for check in CHECKS:
        print("==", " ".join(check), flush=True)
        if subprocess.run([sys.executable, "-m", *check], cwd=ROOT).returncode:
            failed.append(check[0])
    print("failed: " + ", ".join(failed) if failed else "all checks passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
