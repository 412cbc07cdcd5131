#!/usr/bin/env bash
# Trains and tests many runs, on all GPUs or cores: datasets x methods x shots x seeds.
#
#   bash scripts/sweep.sh <dataset[,dataset]> [trainers|all] [shots] [seeds] [KEY VALUE ...] [options]
#   bash scripts/sweep.sh phantom "XCoOp CoOp" "4 16" "1 2 3"
#   bash scripts/sweep.sh phantom,pneumonia all 16 --dry-run
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/env.sh" ""

# The current folder is not searched for modules: its own `datasets` would hide the library of that name.
PYTHONSAFEPATH=1 exec "$PYTHON" -m xcoop.cli sweep "$@"
