#!/bin/sh
# Everything from a fresh clone: environment, install, engines of the demo model, one picture.
#
# On Linux pip takes torch with its CUDA libraries (gigabytes), which building for a CPU does not need. For the CPU build,
# give the address of the CPU index, which the "Get Started" page of pytorch.org names:
#     TORCH_INDEX=<address> sh demo/quickstart.sh
set -eu
cd "$(dirname "$0")/.."
python3 -m venv .venv
if [ -n "${TORCH_INDEX:-}" ]; then
    .venv/bin/python -m pip install --quiet --constraint constraints.txt --index-url "$TORCH_INDEX" torch
fi
.venv/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[export,onnxruntime]"
.venv/bin/saferedir build
.venv/bin/saferedir generate "a burning blue square on a grey background" --seed 7 --compare --report out.json
