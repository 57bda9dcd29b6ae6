#!/bin/sh
# Everything from a fresh clone: environment, install, engines of the demo model, one picture.
set -eu
cd "$(dirname "$0")/.."
python3 -m venv .venv
.venv/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
.venv/bin/saferedir build
.venv/bin/saferedir generate "a burning blue square on a grey background" --seed 7 --compare --report out.json
