#!/usr/bin/env bash
# Everything that only a GPU can tell, within half an hour: see gpu.py beside this file, which takes the same options.
#     dev/gpu.sh [--dry-run] [--coco DIR] [--only STEP ...] [--output DIR]
# PYTHON names the interpreter (default: .venv/bin/python, which `make .venv/.built` makes).
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
export PYTHONPATH="$PWD/projects${PYTHONPATH:+:$PYTHONPATH}"
PATH="$(dirname "$python"):$PATH" exec "$python" dev/gpu.py "$@"
