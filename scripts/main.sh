#!/usr/bin/env bash
# Trains and tests all seeds of a method on a dataset, and prints the table.
#
#   bash scripts/main.sh <dataset> <shots> [trainer|all] [cfg] [KEY VALUE ...]
#   bash scripts/main.sh phantom 16
#   DATA=/path/to/data OUT=output SEEDS="1 2 3" bash scripts/main.sh derm7pt 16 CoOp vit_b16
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/env.sh" ""

# The current folder is not searched for modules: its own `datasets` would hide the library of that name.
PYTHONSAFEPATH=1 exec "$PYTHON" -m xcoop.cli run "$@"
