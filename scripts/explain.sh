#!/usr/bin/env bash
# Explains a finished run on one page, report.html, with its numbers in explanations.json beside it.
#
#   bash scripts/explain.sh <run> [--images N | PATH ...] [--method NAME] [--out FOLDER]
#   bash scripts/explain.sh <run> --demo      a local page to drop images on; needs gradio
#   bash scripts/explain.sh output/phantom/XCoOp/phantom_16shots/seed1 --images 50
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/env.sh" ""

# The current folder is not searched for modules: its own `datasets` would hide the library of that name.
PYTHONSAFEPATH=1 exec "$PYTHON" -m xcoop.cli explain "$@"
