#!/bin/sh
# A GPU day in a box: everything that wants measuring on an NVIDIA GPU, in one command; see box.py for what it does.
#
#     benchmarks/gpu/run.sh [--minutes 25] [--out DIR] [--only PART,...] [--device cpu --tiny]
#
# PYTHON names the interpreter (python3 by default); it needs the dependencies of iml-bench, and not iml-bench itself.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
PYTHONPATH="$here/../..${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONPATH PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
exec "${PYTHON:-python3}" "$here/box.py" "$@"
