"""`saferedir build` without an installation: `python export/build_engines.py` from a clone, in any working directory."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from saferedir.cli import main

    sys.exit(main(["build", *sys.argv[1:]]))
