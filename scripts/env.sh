# Sourced by the other scripts: sets PYTHON to an interpreter that has this checkout's xcoop and all that it needs.
#
#   source env.sh [test]      "test" asks for the tools of the test command, too
#
# An active environment is used as it is, if it has them. Otherwise .venv is made beside the README, and filled once;
# a changed setup.py, or an installation that was interrupted, is made good by the next call. Nothing needs sudo.
#
#   XCOOP_PYTHON   the interpreter to make .venv from; without it, the first one that is found and serves
#   XCOOP_TORCH    the build of PyTorch in it; without it, pip's own choice, on Linux the one for GPUs:
#                    cpu            without GPU libraries, from PyTorch's own index
#                    https://...    another one of PyTorch's indexes
#                    a folder       of wheels, torch and torchvision among them
#                    other words    what pip shall install, as "torch==2.9.1 torchvision==0.24.1"

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
VENV=$ROOT/.venv

# PyTorch has wheels without GPU libraries nowhere else: the ones of PyPI for Linux do not even start without them.
CPU_WHEELS=https://download.pytorch.org/whl/cpu

# Measured on Linux, in MB: what is fetched, and what .venv takes with the tools of the test command. Until all is
# unpacked, what was fetched lies in the folder for temporary files.
GPU_FETCHED=3200 GPU_SIZE=6300 CPU_FETCHED=400 CPU_SIZE=1900

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
needed += "pytest xdist ruff mypy openai open_clip timm transformers tokenizers sentencepiece openpyxl".split() if sys.argv[2] == "test" else []
spec = util.find_spec("xcoop")
here = os.path.join(sys.argv[1], "src", "xcoop", "__init__.py")
ready = spec is not None and os.path.realpath(spec.origin or "") == os.path.realpath(here)
sys.exit(not (ready and all(util.find_spec(name) for name in needed)))
PYTHON
    ) 2>/dev/null
}

# The Pythons of setup.py, oldest first.
_pythons() {
    awk -F'"' '/^PYTHONS = / { for (i = 2; i < NF; i += 2) print $i }' "$ROOT/setup.py"
}

_span() {
    _pythons | awk 'NR == 1 { first = $0 } END { print first " to " $0 }'
}

# What an interpreter says of itself: "serves", or why it cannot make .venv. It may be any Python, and any programme.
_ask() {
    {
        "$1" -c "$(cat)" "$(_span)"
    } <<'PYTHON'
import sys

found, here = "Python %d.%d.%d" % sys.version_info[:3], list(sys.version_info[:2])
oldest, newest = ([int(part) for part in version.split(".")] for version in sys.argv[1].split(" to "))
missing = []
for name in ("venv", "ensurepip"):
    try:
        __import__(name)
    except ImportError:
        missing.append(name)
if here < oldest:
    print("is %s; XCoOp needs %s" % (found, sys.argv[1]))
elif here > newest:
    print("is %s; XCoOp needs %s (for newer ones PyTorch may have no packages yet)" % (found, sys.argv[1]))
elif sys.implementation.name != "cpython":
    print("is %s of %s; PyTorch has packages for CPython alone" % (sys.implementation.name, found))
elif missing:
    package = "python%d.%d-venv" % sys.version_info[:2]
    needed = " and ".join(missing)
    print("is %s without %s, which makes environments (Debian and Ubuntu: package %s)" % (found, needed, package))
else:
    print("serves")
PYTHON
}

# Why an interpreter cannot make .venv, as the rest of a sentence that begins with its name; nothing if it can.
_why_not() {
    local said
    if [ -d "$1" ]; then
        echo "is a folder; name the interpreter itself"
    elif ! command -v -- "$1" >/dev/null 2>&1; then
        case $1 in
            */*) if [ -e "$1" ]; then echo "cannot be run"; else echo "does not exist"; fi ;;
            *) echo "is not on the PATH" ;;
        esac
    else
        said=$(_ask "$1" 2>/dev/null) || said="broken"
        case $said in
            serves) ;;
            "is "*) printf '%s\n' "$said" ;;
            *) echo "is no Python that starts" ;;
        esac
    fi
}

_find_base_python() {
    local name why seen=""
    if [ -n "${XCOOP_PYTHON:-}" ]; then
        command -v -- "$XCOOP_PYTHON" # it serves: that was asked before
        return
    fi
    for name in python3 $(_pythons | awk '{ names = "python" $0 " " names } END { print names }') python; do
        command -v "$name" >/dev/null 2>&1 || continue
        why=$(_why_not "$name")
        if [ -z "$why" ]; then
            command -v "$name"
            return
        fi
        seen="$seen $name $why."
    done
    _fail "No Python was found that can make the environment:${seen:- there is none on the PATH.}" \
        "Install one of Python $(_span), or name one: XCOOP_PYTHON=/path/to/python"
}

# What an interpreter is, whichever link or environment it was called through.
_identity() {
    "$1" -c 'import sys; print("Python %d.%d.%d in" % sys.version_info[:3], sys.base_prefix)'
}

# What an installation depends on: the requirements, the interpreter, and where the checkout lies.
_stamp() {
    { cat "$ROOT/setup.py"; "$VENV/bin/python" -VV; printf '%s' "$ROOT"; } | "$VENV/bin/python" -c \
        'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())'
}

_has_torch() {
    "$VENV/bin/python" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)'
}

# What .venv was made with stays: another interpreter or PyTorch needs another .venv, and what is in it is the user's.
_make_venv() {
    local base kept="" other="delete that folder to have it made anew, or leave"
    if "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
        kept=$(_identity "$VENV/bin/python")
        if [ -n "${XCOOP_PYTHON:-}" ] && [ "$(_identity "$XCOOP_PYTHON")" != "$kept" ]; then
            _fail "XCOOP_PYTHON=$XCOOP_PYTHON is $(_identity "$XCOOP_PYTHON"), but $VENV was made with $kept:" \
                "$other XCOOP_PYTHON out."
        fi
    else
        base=$(_find_base_python) || exit 1
        echo "Making the environment $VENV with $("$base" --version)"
        "$base" -m venv --clear "$VENV" || _fail "Could not make $VENV with $base"
    fi
    kept=""
    [ -f "$VENV/.torch" ] && kept=$(cat "$VENV/.torch")
    TORCH=${XCOOP_TORCH:-$kept}
    [ -d "$TORCH" ] && TORCH=$(cd -- "$TORCH" && pwd -P)
    case $TORCH in
        "" | cpu | https://* | /* | *torch*torchvision* | *torchvision*torch*) ;;
        *) _fail "XCOOP_TORCH=$TORCH is neither cpu, an index (https://...), a folder of wheels that is there," \
            "nor what pip shall install (\"torch==2.9.1 torchvision==0.24.1\")." ;;
    esac
    if [ "${TORCH#/}" != "$TORCH" ] && [ ! -d "$TORCH" ]; then
        _fail "XCOOP_TORCH=$TORCH: there is no such folder of wheels."
    fi
    if [ "$TORCH" != "$kept" ] && _has_torch; then
        _fail "$VENV has the PyTorch of XCOOP_TORCH=${kept:-(nothing)}, and now it is XCOOP_TORCH=$TORCH:" \
            "$other XCOOP_TORCH out."
    fi
    printf '%s\n' "$TORCH" >"$VENV/.torch"
}

_gigabytes() {
    awk -v mb="$1" 'BEGIN { printf "%.1f GB", mb / 1000 }'
}

# Says what is about to be fetched and how much disk it takes; ends if there is less.
_announce() {
    local what="PyTorch for GPUs" fetched=$GPU_FETCHED size=$GPU_SIZE less free temporary
    less="XCOOP_TORCH=cpu, without GPUs: $(_gigabytes $CPU_FETCHED) and $(_gigabytes $CPU_SIZE)"
    if [ "$(uname -s):$TORCH" != Linux: ]; then
        what=PyTorch fetched=$CPU_FETCHED size=$CPU_SIZE less="some builds of PyTorch: more"
    fi
    echo "Installing XCoOp and what it needs into .venv (once; some minutes)"
    echo "$what and the rest: about $(_gigabytes $fetched) to fetch, $(_gigabytes $size) on the disk ($less)"
    temporary=${TMPDIR:-/tmp}
    free=$(df -Pm "$temporary" | awk 'NR == 2 { print $4 }')
    if [ "$free" -lt "$fetched" ]; then
        _fail "$temporary has $(_gigabytes "$free") free, too little for what is fetched; TMPDIR names another folder."
    fi
    if [ "$(_disk_of "$VENV")" = "$(_disk_of "$temporary")" ]; then
        size=$((size + fetched))
    fi
    free=$(df -Pm "$VENV" | awk 'NR == 2 { print $4 }')
    if [ "$free" -lt "$size" ]; then
        _fail "The disk of $VENV has $(_gigabytes "$free") free; installing takes $(_gigabytes $size) ($less)."
    fi
}

_disk_of() {
    df -Pm "$1" | awk 'NR == 2 { print $1, $NF }'
}

# Runs pip: one short line a package, the whole output in .venv/install.log.
_pip_install() {
    local log=$VENV/install.log
    if ! (cd "$ROOT" && "$VENV/bin/python" -m pip install --disable-pip-version-check --no-input --progress-bar off \
        "$@" 2>&1 | tee -a "$log" | _in_short && exit "${PIPESTATUS[0]}"); then
        tail -n 15 "$log" >&2
        if grep -q "No matching distribution found for torch" "$log"; then
            _fail "PyTorch has no packages for $("$VENV/bin/python" -V) on $(uname -sm) with: pip install $*"
        fi
        _fail "The installation failed; its whole output is in $log. The next call tries again."
    fi
}

# By the shell, line by line: some kinds of awk wait until they have read a whole block.
_in_short() {
    local word name size
    while read -r word name size; do
        case $word:$name in
            Downloading:*.whl | Downloading:*.gz | Processing:*.whl | Processing:*.gz)
                name=${name##*/} name=${name%%-cp[0-9]*}
                printf '  %s %s\n' "${name%%-py[0-9]*}" "$size"
                ;;
            Installing:collected) echo "  unpacking" ;;
        esac
    done
}

# Installs the PyTorch that was asked for, and then the checkout, which must not change it.
_install() {
    local extra=$1 words
    : >"$VENV/install.log"
    if _has_torch; then
        echo "Bringing .venv up to date"
    else
        _announce
    fi
    if [ -z "$TORCH" ] || [ "$TORCH:$(uname -s)" = cpu:Darwin ]; then # macOS has no other than that for CPUs
        _pip_install -e ".$extra"
        return
    fi
    case $TORCH in
        cpu) words=(--index-url "$CPU_WHEELS" torch torchvision) ;;
        https://*) words=(--index-url "$TORCH" torch torchvision) ;;
        /*) words=(--no-index --find-links "$TORCH" torch torchvision) ;;
        *) read -r -a words <<<"$TORCH" ;;
    esac
    # What PyTorch needs comes with the rest: its own index has no more than copies of that.
    _pip_install --no-deps "${words[@]}"
    "$VENV/bin/python" -m pip freeze | grep -E '^torch(vision)?(==| @)' >"$VENV/torch.txt"
    _pip_install -e ".$extra" -c "$VENV/torch.txt"
    "$VENV/bin/python" -c "import torch, torchvision" 2>>"$VENV/install.log" ||
        _fail "torch and torchvision of XCOOP_TORCH=$TORCH do not start together ($VENV/install.log has the error):" \
            "delete $VENV and choose two of one build."
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
    _is_ready "$VENV/bin/python" "$kind" ||
        _fail "The installation in $VENV is not whole; delete that folder and try again."
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

case $OSTYPE in
    msys* | cygwin* | win*) _fail "XCoOp runs on Linux and macOS, and on Windows inside WSL; this shell is $OSTYPE's." ;;
esac
if [ -n "${XCOOP_PYTHON:-}" ]; then
    why=$(_why_not "$XCOOP_PYTHON")
    [ -z "$why" ] || _fail "XCOOP_PYTHON=$XCOOP_PYTHON $why."
fi
PYTHON=$(command -v python || command -v python3 || true)
if [ -z "$PYTHON" ] || ! _is_ready "$PYTHON" "${1:-}"; then
    _prepare_alone "${1:-}"
    PYTHON=$VENV/bin/python
fi
