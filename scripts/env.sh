# Sourced by the other scripts: sets PYTHON to an interpreter that has this checkout's xcoop and all that it needs.
#
#   source env.sh [test]      "test" asks for the tools of the test command, too
#
# An active environment is used as it is, if it has them. Otherwise .venv is made beside the README, and filled once;
# a changed setup.py, or an installation that was interrupted, is made good by the next call.
# XCOOP_PYTHON names the interpreter to make it from. Nothing needs sudo.

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
VENV=$ROOT/.venv

_fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

# Whether an interpreter imports xcoop from this checkout, and finds the packages that it needs.
_is_ready() {
    (cd / && "$1" - "$ROOT" "${2:-}" <<'PYTHON'
import importlib.util as util
import os
import sys

needed = "torch torchvision numpy PIL yacs clip gdown tabulate yaml tqdm sklearn joblib scipy tensorboard".split()
needed += "safetensors packaging filelock pydantic jinja2 submitit pandas scikit_posthocs matplotlib".split()
needed += "pytest xdist ruff mypy openai open_clip timm transformers tokenizers sentencepiece".split() if sys.argv[2] == "test" else []
spec = util.find_spec("xcoop")
here = os.path.join(sys.argv[1], "src", "xcoop", "__init__.py")
ready = spec is not None and os.path.realpath(spec.origin or "") == os.path.realpath(here)
sys.exit(not (ready and all(util.find_spec(name) for name in needed)))
PYTHON
    ) 2>/dev/null
}

# Whether an interpreter is one of Python 3.10 to 3.13 that can make virtual environments.
_can_make_venv() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

_find_base_python() {
    local name
    for name in ${XCOOP_PYTHON:+"$XCOOP_PYTHON"} python3 python3.13 python3.12 python3.11 python3.10 python; do
        if command -v "$name" >/dev/null 2>&1 && _can_make_venv "$name"; then
            command -v "$name"
            return
        fi
    done
    return 1
}

# What an installation depends on: the requirements, the interpreter, and where the checkout lies.
_stamp() {
    { cat "$ROOT/setup.py"; "$VENV/bin/python" -VV; printf '%s' "$ROOT"; } | "$VENV/bin/python" -c \
        'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())'
}

_make_venv() {
    local base
    if "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
        return
    fi
    base=$(_find_base_python) || _fail \
        "No Python 3.10 to 3.13 that can make virtual environments was found (looked for python3, python3.13 ... python3.10)." \
        "Install one (on Debian and Ubuntu also the package python3-venv), or name one: XCOOP_PYTHON=/path/to/python"
    echo "Making the environment $VENV with $("$base" --version)"
    "$base" -m venv --clear "$VENV" || _fail "Could not make $VENV with $base"
}

# Installs the checkout with pip; one short line a package, the whole output in .venv/install.log.
_install() {
    local extra=$1 log=$VENV/install.log
    echo "Installing XCoOp and what it needs into .venv (once; PyTorch is large: some minutes)"
    if ! (cd "$ROOT" && "$VENV/bin/python" -m pip install --disable-pip-version-check --no-input --progress-bar off \
        -e ".$extra" 2>&1 | tee "$log" | _in_short && exit "${PIPESTATUS[0]}"); then
        tail -n 15 "$log" >&2
        _fail "The installation failed; its whole output is in $log. The next call tries again."
    fi
}

_in_short() {
    awk '/^ *(Downloading|Processing) .*[.](whl|gz)/ { name = $2; sub(/.*\//, "", name); sub(/-(cp|py)[0-9].*/, "", name); print "  " name; fflush() }
         /^Installing collected/ { print "  unpacking"; fflush() }'
}

_prepare() {
    local kind=${1:-run} extra="" stamp
    [ "$kind" = test ] && extra="[test]"
    _make_venv
    stamp=$(_stamp)
    # The tools of the test command come on top: where they are, the rest is, too.
    for mark in "$VENV/.ready-test" "$VENV/.ready-$kind"; do
        if [ -f "$mark" ] && [ "$(cat "$mark")" = "$stamp" ] && _is_ready "$VENV/bin/python" "$kind"; then
            return
        fi
    done
    rm -f "$VENV/.ready-test" "$VENV/.ready-run"
    _install "$extra"
    _is_ready "$VENV/bin/python" "$kind" || _fail "The installation in $VENV is not whole; delete that folder and try again."
    printf '%s\n' "$stamp" >"$VENV/.ready-$kind"
}

# Two calls at once: the second waits for the first one's installation.
_prepare_alone() {
    if command -v flock >/dev/null 2>&1; then
        exec 9<"$ROOT"
        flock 9 || echo "$ROOT lies on a disk without locks: let one script install at a time" >&2
        _prepare "$@"
        exec 9<&-
    else
        _prepare "$@"
    fi
}

PYTHON=$(command -v python || command -v python3 || true)
if [ -z "$PYTHON" ] || ! _is_ready "$PYTHON" "${1:-}"; then
    _prepare_alone "${1:-}"
    PYTHON=$VENV/bin/python
fi
