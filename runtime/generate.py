"""`saferedir generate` without an installation: `python runtime/generate.py` from a clone, in any working directory."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from saferedir.cli import main

    sys.exit(main(["generate", *sys.argv[1:]]))
