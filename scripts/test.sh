#!/usr/bin/env bash
# Checks style and types, and runs the tests; arguments go to pytest, e.g. `bash scripts/test.sh -m slow`.
# They run on all cores, up to eight; `-n 0` runs them in one process.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/env.sh" test
cd -- "$ROOT"

failed=()
_check() {
    echo "== $*"
    "$PYTHON" -m "$@" || failed+=("$*")
}
_check ruff check .
_check ruff format --check .
_check mypy
if [ "${#failed[@]}" -gt 0 ]; then
    echo "FAILED before the tests: $(printf '%s; ' "${failed[@]}")"
fi

echo "== pytest"
status=0
"$PYTHON" -m pytest -m "not slow and not gpu" -n auto --maxprocesses 8 --dist loadfile "$@" || status=$?
[ "${#failed[@]}" -eq 0 ] || exit 1
exit "$status"
